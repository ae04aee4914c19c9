"""What is told while a worker says nothing: a person who waits should know for what, and until when.

`runtime.watchdog` ends it then.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from edgellm.types.plan import LaunchPlan

TOLD_AFTER_S = 10.0
STEPS = 2  # of the predicted length: a slow board is as silent as that in each
log = logging.getLogger("edgellm.runtime.silence")

Awaited = Literal["load", "first step", "step"]


@dataclass(frozen=True, slots=True)
class Silence:
    """Of a worker that is waited for.

    Attributes:
        limit_s: after how many seconds of it the worker is ended, where it goes on as now; 0 = never.
        computes: whether it did at the last look, for which it has longer.
    """

    seconds: float
    limit_s: float
    waits_for: Awaited
    computes: bool = False


class Teller:
    """Of the worker of a plan.

    Attributes:
        after_s: seconds of silence that are worth a line.
    """

    def __init__(self, plan: LaunchPlan) -> None:
        self.after_s = max(TOLD_AFTER_S, STEPS * (plan.step_s or 0.0))
        self._plan = plan

    def tell(self, silence: Silence) -> None:
        """A line in the log; the command line shows it on standard error."""
        does = {"load": "loading", "first step": "computing a first token", "step": "computing"}[silence.waits_for]
        # Of the length of a load the variable says nothing (`watchdog.limits`).
        setting = "" if silence.waits_for == "load" else " (EDGELLM_HUNG_AFTER)"
        until = f"it is ended after {silence.limit_s:.0f} s of silence{setting}"
        if silence.computes:
            until = f"while it computes, it is ended after {silence.limit_s:.0f} s of silence at the latest{setting}"
        if not silence.limit_s:
            until = "nothing ends it (EDGELLM_HUNG_AFTER=0)"
        log.warning(
            "the %s backend has been %s for %.0f s without a word; %s",
            self._plan.backend,
            does,
            silence.seconds,
            until,
            extra={
                "facts": {
                    "model": self._plan.artifact.name,
                    "backend": self._plan.backend,
                    "waits_for": silence.waits_for,
                }
            },
        )
