"""Tuning is work that can wait: it computes where others leave time, and goes first where memory is short."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

LAST = 19  # of all niceness: 15 parts of processor time to the 1,024 of an ordinary thread (sched(7))
_BELOW_NORMAL = 10  # on Windows, from which niceness on the idle class is taken
_OOM_SCORE = 500  # of 1000 that are added, so that the kernel ends a tuning before a server


def least_share(nice: int, load: float, processors: int) -> float:
    """Of a processor, for a thread among the others that want it: by the kernel's weights, at worst.

    Where the kernel groups by session, or the others wait now and then, it is more.
    """
    weight = 1.25**-nice
    return min(1.0, weight / (weight + load / processors))


def yield_to_others(nice: int = LAST) -> None:
    """For a worker, before it starts its threads, which inherit it. A machine without others is still used whole.

    `nice`: from 0, as any other program, to LAST.
    """
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        if sys.platform == "win32":
            classes = psutil.BELOW_NORMAL_PRIORITY_CLASS, psutil.IDLE_PRIORITY_CLASS
            psutil.Process().nice(classes[nice >= _BELOW_NORMAL] if nice else psutil.NORMAL_PRIORITY_CLASS)
        else:
            psutil.Process().nice(nice)
    if sys.platform == "linux":
        # Where the kernel groups by session, each has a share of its own, and niceness counts within it only.
        for name, value in (("autogroup", nice), ("oom_score_adj", _OOM_SCORE)):
            with contextlib.suppress(OSError):
                Path(f"/proc/self/{name}").write_text(str(value))
