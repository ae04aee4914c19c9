"""A limit of what a process allocates, so that a stranger's file cannot take the machine's memory. Linux only.

Pages of mapped files that are only read do not count. An allocation beyond fails: in Python with MemoryError, in native
code as that handles it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 2**62  # what a limit can be


def data_bytes() -> int:
    """What the kernel counts against RLIMIT_DATA: private memory that can be written, touched or not; 0 = untold."""
    with Path("/proc/self/status").open() as lines:
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), 0)


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
