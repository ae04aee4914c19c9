"""`timeout=`: until when the answer to one request must be there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from edgellm.errors import TimedOut, UsageError, option
from edgellm.runtime.session import Delivery, QueueSink, check_process
from edgellm.types.checks import plain_numbers

T = TypeVar("T")
_ANSWER = "the answer was not complete after {} s, and was ended"


def seconds(timeout: float | None) -> float | None:
    """None = wait as long as it takes, as it is for more than the system can wait in one go (292 years on 64 bits).

    Raises:
        UsageError: no number of seconds.
    """
    timeout = plain_numbers(timeout)
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and timeout > 0):
        hint = "None waits as long as it takes"
        raise UsageError(f"timeout={timeout!r} is not a number of seconds above 0", hint=hint, param="timeout")
    return None if timeout is not None and timeout > threading.TIMEOUT_MAX else timeout


class Deadline:
    """Counts from the moment it is made. What has arrived by then can still be taken later.

    Whatever waits for a model waits by one of these, and is refused (UsageError) in a fork of the process that made it.
    """

    def __init__(
        self, timeout: float | None, *, late: str = _ANSWER, instead: str = "stream() gives what came so far"
    ) -> None:
        """`timeout`: see `seconds`. `late`: what is told where it passes, with {} for the seconds; `instead`: what to
        do then.

        Raises:
            UsageError: no number of seconds.
        """
        self._timeout = timeout = seconds(timeout)
        self._made_in = os.getpid()
        self._late = late
        self._instead = instead
        self._ends = None if timeout is None else time.monotonic() + timeout

    def next_of(self, sink: QueueSink, slots_taken: Callable[[], int] | None = None) -> Delivery:
        """What arrives next. Raises TimedOut where nothing did in time.

        Args:
            slots_taken: how many slots the model has, where others hold all of them; 0 = this one has its own.
        """
        try:
            return sink.get(self._left)
        except queue.Empty:
            raise self._passed(slots_taken) from None

    async def keep(self, arriving: Coroutine[Any, Any, T], slots_taken: Callable[[], int] | None = None) -> T:
        """The same for coroutines."""
        with contextlib.closing(arriving):  # which a fork does not even begin
            left = self._left
            if left is None:
                return await arriving
            try:
                async with asyncio.timeout(left):
                    return await arriving
            except TimeoutError:
                raise self._passed(slots_taken) from None

    def check(self) -> None:
        """Raises TimedOut where it has passed."""
        if self._left == 0:
            raise self._passed()

    @property
    def _left(self) -> float | None:
        check_process(self._made_in)
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    def _passed(self, slots_taken: Callable[[], int] | None = None) -> TimedOut:
        assert self._timeout is not None
        if slots_taken is not None and (n_slots := slots_taken()):
            return TimedOut(
                f"the request still waited for other answers after {self._timeout:g} s, and was ended",
                hint="give it a longer timeout, close streams that nobody reads to their end, or answer more at once: "
                f"{option('slots', n_slots + 1)} when the model is loaded",
                timeout=float(self._timeout),
            )
        return TimedOut(
            self._late.format(f"{self._timeout:g}"),
            hint=f"give it a longer timeout or less to do; {self._instead}; where other programs keep the processors "
            f"busy and several threads compute, {option('threads', 1)} is often many times faster",
            timeout=float(self._timeout),
        )
