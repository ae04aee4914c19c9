"""A limit of what a process allocates, so that a stranger's file cannot take the machine's memory. Linux only.

Pages of mapped files that are only read do not count. An allocation beyond fails: in Python with MemoryError, in native
code as that handles it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MOST_BYTES = 2**62  # what a limit can be


def data_bytes() -> int:
    """What the kernel counts against RLIMIT_DATA: private memory that can be written, touched or not; 0 = untold."""
    return _told("VmData:")


def taken_bytes() -> int:
    """What this process has of the machine's memory for itself, in RAM or swapped; 0 = untold."""
    return _told("RssAnon:", "VmSwap:")


def _told(*names: str) -> int:
    with Path("/proc/self/status").open() as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


def limit_data(more_bytes: int) -> None:
    """From now on, so much more than there is now, or less where a limit is nearer. Nothing on other systems."""
    if sys.platform == "linux":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        asked = min(data_bytes() + more_bytes, MOST_BYTES)
        limit = min([asked, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY)])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


@contextlib.contextmanager
def limited_data(more_bytes: int) -> Iterator[None]:
    """As `limit_data`, until the block ends."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_data(more_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def lift_limit() -> None:
    """For a driver that reserves memory as it likes."""
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


@dataclass
class _Own:
    """The limit of this process alone, where it has one (`limit_own_data`)."""

    limit: int | None = None
    before: tuple[int, int] = (0, 0)  # soft and hard
    n_lifted: int = 0  # blocks of `lifted` that run
    # Reentrant: the garbage collector may come to `lifted` while its thread is in there.
    lock: threading.RLock = field(default_factory=threading.RLock)


_own = _Own()


def limit_own_data(more_bytes: int) -> int:
    """As `limit_data`, but not of what this process starts, and not within `lifted`. Returns the limit; 0 = none, as
    this is another system."""
    if sys.platform != "linux":
        return 0
    import resource

    with _own.lock:
        _own.before = resource.getrlimit(resource.RLIMIT_DATA)
        limit_data(more_bytes)
        _own.limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        _hold()
        return _own.limit


def end_own_limit() -> None:
    """There is none any more."""
    with lifted():
        _own.limit = None


@contextlib.contextmanager
def lifted() -> Iterator[None]:
    """Until the block ends, the limit of `limit_own_data` does not hold, in any thread: so the block must be short.

    For what starts processes, which inherit limits, or threads, whose stacks count; and for what has to be done,
    whatever others have taken.
    """
    with _own.lock:
        _own.n_lifted += 1
        _hold()
    try:
        yield
    finally:
        with _own.lock:
            _own.n_lifted -= 1
            _hold()


def _hold() -> None:
    """The limit, unless it is lifted."""
    if sys.platform == "linux" and _own.limit is not None:
        import resource

        soft, hard = _own.before
        resource.setrlimit(resource.RLIMIT_DATA, (soft if _own.n_lifted else _own.limit, hard))
