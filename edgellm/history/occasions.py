"""What kernels were measured beside: how much of the processors other programs took, and which rates count.

Other programs can only make a measurement slower, and nobody knows by how much: rates that were measured beside them
are kept and told of, never predicted from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from edgellm.history.run_log import BUSY
from edgellm.types.calibration import Calibration, Occasion, nearest

# Of the processors' time. What runs on a machine at rest takes less; one busy program on two processors takes half.
TAKEN = 0.15
LEAST_S = 1.0  # of the processors' time: the system counts it by hundredths of a second


@dataclass(frozen=True, slots=True)
class Counters:
    """Seconds so far. `waited_s` and `ran_s` are those of the first thread, which computes beside the others."""

    busy_s: float  # of the processors that this process may use, by whomever
    all_s: float
    own_s: float  # of all threads of this process
    ran_s: float | None = None  # None = this system does not tell
    waited_s: float | None = None  # was ready to run, and others had the processors


def counters() -> Counters:
    """Of this process and its machine, now."""
    import psutil

    processors = psutil.cpu_times(percpu=True)
    mine = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else []
    if mine and max(mine) < len(processors):
        processors = [processors[at] for at in mine]
    idle_s = sum(times.idle + getattr(times, "iowait", 0.0) for times in processors)
    # What guests take is in `user` already (proc_stat(5)).
    all_s = sum(sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0) for times in processors)
    try:
        # Nanoseconds on a processor and in the queue for one (Documentation/scheduler/sched-stats.rst).
        ran, waited, *_ = (int(number) / 1e9 for number in Path("/proc/self/schedstat").read_text().split())
    except (OSError, ValueError):
        return Counters(all_s - idle_s, all_s, time.process_time())
    return Counters(all_s - idle_s, all_s, time.process_time(), ran, waited)


def between(before: Counters, after: Counters) -> Occasion:
    """What ran beside this process from the one to the other, without a date; nothing is known of a moment."""
    all_s = after.all_s - before.all_s
    if all_s < LEAST_S:
        return Occasion()
    others_s = after.busy_s - before.busy_s - (after.own_s - before.own_s)
    taken = _share(others_s, all_s)
    if None in (before.ran_s, before.waited_s, after.ran_s, after.waited_s):
        return Occasion(taken=taken)
    waited_s = (after.waited_s or 0.0) - (before.waited_s or 0.0)
    ran_s = (after.ran_s or 0.0) - (before.ran_s or 0.0)
    return Occasion(taken=taken, waited=_share(waited_s, waited_s + ran_s))


def contended(occasion: Occasion | None) -> bool:
    """Whether other programs ran beside it. Where nothing was counted, threads that are slower than one tell it."""
    if occasion is None:
        return False
    if occasion.taken is None and occasion.waited is None:
        return occasion.of_one is not None
    return (occasion.taken or 0.0) > TAKEN or (occasion.waited or 0.0) > BUSY


def quiet(rates: Calibration, threads: int) -> Calibration | None:
    """Of the rates those that were not measured beside other programs.

    None where they were with as many threads as `threads` would go by: those of fewer would count for no slower ones.
    """
    beside = {count for count in rates.counts if contended(rates.occasions.get(count))}
    left = rates.of(rates.counts - beside)
    return None if nearest(rates.counts, threads) in beside or not left.decode else left


def merged(before: Calibration, later: Calibration) -> Calibration:
    """The later rates instead of those with as many threads, except where only the later had other programs beside."""
    stay = {
        count
        for count in before.counts & later.counts
        if contended(later.occasions.get(count)) and not contended(before.occasions.get(count))
    }
    # Date and scatter are of the rates that count.
    whole, first, then = (
        before if stay else later, before.of(before.counts - (later.counts - stay)), later.of(later.counts - stay)
    )  # fmt: skip
    return whole.of(()).with_rates(first).with_rates(then)


def _share(part: float, whole: float) -> float | None:
    """Three decimals: more would only show noise."""
    return round(min(1.0, max(0.0, part / whole)), 3) if whole > 0 else None
