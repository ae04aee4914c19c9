"""How much memory a process holds and held at most: of the worker, asked by its parent, so that it costs no step.

`ru_maxrss` is no help: the kernel lets a process inherit the peak of the one that started it (fs/exec.c).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resident:
    now_bytes: int  # resident set, pages of mapped files included
    peak_bytes: int | None = None  # None = this system does not tell it of another process


def resident(pid: int) -> Resident | None:
    """Of a running process; None where it is gone or cannot be looked at."""
    if sys.platform == "linux":
        return _linux(pid)
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return Resident(info.rss, getattr(info, "peak_wset", None))


def _linux(pid: int) -> Resident | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
        found = {
            name: int(rest.split()[0]) * 1024
            for name, _, rest in (line.partition(":") for line in lines)
            if name in _FIELDS
        }
    except (OSError, ValueError, IndexError):
        return None
    # A process that ended and was not waited for has no memory any more.
    return Resident(found["VmRSS"], found["VmHWM"]) if found.keys() == _FIELDS else None


_FIELDS = {"VmRSS", "VmHWM"}
