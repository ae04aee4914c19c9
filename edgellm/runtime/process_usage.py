"""Memory and processor time of a process. The parent reads those of the worker, so that it costs no step.

`ru_maxrss` is no help: the kernel lets a process inherit the peak of the one that started it (fs/exec.c).
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Seconds are those of the first thread, which computes beside the others. None = this system does not tell."""

    resident_bytes: int  # now, pages of mapped files included
    peak_bytes: int | None = None
    ran_s: float | None = None
    waited_s: float | None = None  # was ready to run, and others had the processors


def process_usage(pid: int) -> ProcessUsage | None:
    """Of a running process; None where it is gone or cannot be looked at."""
    if sys.platform == "linux":
        return _linux(Path("/proc") / str(pid))
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return ProcessUsage(info.rss, getattr(info, "peak_wset", None))


def wanted_s(pid: int) -> float:
    """Processor time of all threads of a process so far, and of those that run the time in which others had the
    processors, where the system tells (Linux); 0 where it is gone."""
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    waited_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            waited_ns += int(thread.read_text().split()[1])
    return times.user + times.system + waited_ns / 1e9


def waited_share(before: ProcessUsage | None, after: ProcessUsage | None) -> float | None:
    """Share of the time between the two in which it was ready to run and others had the processors; None = unknown."""
    if before is None or after is None:
        return None
    counts = (before.ran_s, before.waited_s, after.ran_s, after.waited_s)
    if any(count is None for count in counts):
        return None
    ran_before, waited_before, ran, waited = (count or 0.0 for count in counts)
    ready = ran - ran_before + waited - waited_before
    return (waited - waited_before) / ready if ready > 0 else None


def _linux(process: Path) -> ProcessUsage | None:
    try:
        lines = (process / "status").read_text("utf-8", "replace").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (OSError, ValueError, LookupError):
        # Also where it ended and was not waited for: it has no memory any more.
        return None
    try:
        # Nanoseconds on a processor and in the queue for one (Documentation/scheduler/sched-stats.rst).
        ran, waited, *_ = (int(number) / 1e9 for number in (process / "schedstat").read_text().split())
    except (OSError, ValueError):
        return ProcessUsage(now, peak)
    return ProcessUsage(now, peak, ran, waited)
