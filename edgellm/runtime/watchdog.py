"""Notices a worker that hangs: it lives and says nothing while somebody waits for it. Its silence is told before.

A worker that works says something at least every `BEAT_S` seconds, or after the step at hand where that takes longer
(`runtime.loop`); what is said beside its steps does not count (`runtime.token_answers`). How long a step may take
follows from what was predicted of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from edgellm.contract.data_limit import lifted
from edgellm.runtime.silence import Awaited, Silence, Teller
from edgellm.runtime.work_bytes import work_bytes
from edgellm.types.plan import LaunchPlan

BEAT_S = 0.5
LEAST_LIMIT_S = 30.0
# The prediction may be wrong, and other programs may want the processors.
STEPS = 10
# Of a plan that predicts no speed: a batch of a large model on a small board takes a minute.
UNPREDICTED_LIMIT_S = 600.0
# The first step reads the weights that are not in memory yet, perhaps from a memory card.
SLOWEST_DISK = 10e6  # bytes per second
TICKS = 8  # within the limit
TICK_S = 2.5  # at most, as silence is told long before the limit
# One that computes is not stuck, and steps take up to 200 times as long where other programs keep the processors busy.
# On Linux one that goes on and on is ended sooner, by its own processor time (`runtime.processor_time`).
COMPUTING_SHARE = 0.02  # of a processor
COMPUTING_LIMIT = 20  # times the limit
MOST_COMPUTING_S = 1800.0  # where the limit itself is not longer
LOAD_LIMIT_S, LOAD_DISK = 600.0, 1e6  # nobody waits for a step, and a card or a network may be slower than any disk


class SilenceLimits(NamedTuple):
    """Seconds of silence after which a worker hangs: while it loads, before its first step is done, and later.

    0 = never.
    """

    load_s: float
    first_s: float
    usual_s: float


def limits(plan: LaunchPlan, hung_after_s: float | None) -> SilenceLimits:
    """Of a worker of this plan. `hung_after_s` is what the user set, None = nothing; for a load, only 0 counts."""
    load_s = LOAD_LIMIT_S + work_bytes(plan) / LOAD_DISK
    if hung_after_s is not None:
        return SilenceLimits(load_s if hung_after_s else 0.0, hung_after_s, hung_after_s)
    usual_s = UNPREDICTED_LIMIT_S if plan.step_s is None else max(LEAST_LIMIT_S, STEPS * plan.step_s)
    return SilenceLimits(load_s, usual_s + work_bytes(plan) / SLOWEST_DISK, usual_s)


class Watchdog:
    """Calls `on_hang` once in a life of the worker, from its own thread.

    Attributes:
        heard: set it to true for every sign of life.
    """

    def __init__(
        self,
        limits: SilenceLimits,
        awaited: Callable[[], bool],
        computed_s: Callable[[], float],
        on_hang: Callable[[float], None],
        teller: Teller,
    ) -> None:
        """
        Args:
            awaited: whether anybody waits for the worker now.
            computed_s: processor time of the worker so far, with that which others had meanwhile.
            on_hang: gets the seconds of silence.
            teller: gets silence that lasts, and gets it again each time that it has lasted twice as long.
        """
        self.heard = False
        self._limits = limits
        self._limit_s = limits.first_s
        self._silent_s = 0.0
        self._counted_s = 0.0  # of that, against the limit
        self._computed_before_s = 0.0
        self._awaited = awaited
        self._computed_s = computed_s
        self._on_hang = on_hang
        self._teller = teller
        self._next_told_s = teller.after_s
        self._waits_for: Awaited = "first step"
        self._ended = threading.Event()

    def start(self) -> None:
        """The worker begins to load."""
        self.begin()
        threading.Thread(target=self._watch, name="edgellm-watchdog", daemon=True).start()

    def begin(self) -> None:
        self._waits_for, self._limit_s = "load", self._limits.load_s

    def loaded(self) -> None:
        self.heard, self._waits_for, self._limit_s = False, "first step", self._limits.first_s
        self._has_spoken()

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        tick_s = min(self._limits.usual_s / TICKS or TICK_S, TICK_S)
        while not self._ended.wait(tick_s):
            with lifted():
                hangs = self.hangs_after(tick_s)
            if hangs:
                self._on_hang(self._silent_s)
                return

    def hangs_after(self, tick_s: float) -> bool:
        """Whether it hangs, `tick_s` seconds after the last look.

        Silence is counted in looks, not read from the clock: while this process stands still (Ctrl-Z, a debugger, a
        suspended machine), it hears nothing either.
        """
        if self.heard:
            self.heard = False
            if self._waits_for != "load":
                self._limit_s, self._waits_for = self._limits.usual_s, "step"
            self._has_spoken()
        elif self._waits_for == "load" or self._awaited():
            computes = self._computes(tick_s)
            self._silent_s += tick_s
            self._counted_s += tick_s / self._times if computes else tick_s
            self._tell(computes)
        else:
            self._has_spoken()
        return 0 < self._limit_s <= self._counted_s

    @property
    def _times(self) -> float:
        """As long as the limit is what one that computes may take."""
        return min(COMPUTING_LIMIT, max(1.0, MOST_COMPUTING_S / self._limit_s)) if self._limit_s else 1.0

    def _has_spoken(self) -> None:
        self._silent_s = self._counted_s = 0.0
        self._next_told_s = self._teller.after_s

    def _tell(self, computes: bool) -> None:
        if self._silent_s < self._next_told_s:
            return
        self._next_told_s = 2 * self._silent_s
        left_s = max(0.0, self._limit_s - self._counted_s) * (self._times if computes else 1.0)
        ends_s = self._silent_s + left_s if self._limit_s else 0.0
        self._teller.tell(Silence(self._silent_s, ends_s, self._waits_for, computes))

    def _computes(self, tick_s: float) -> bool:
        before_s, self._computed_before_s = self._computed_before_s, self._computed_s()
        return self._computed_before_s - before_s > COMPUTING_SHARE * tick_s
