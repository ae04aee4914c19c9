"""Memory that large requests needed goes back to the system; the C library would keep it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys

TRIM_BYTES = 4 * 1024**2  # so much has to have been needed
TRIM_AFTER_S = 2.0  # when what was made of the last request is gone, too
# Blocks from this size on are mapped one by one, and go back as soon as they are freed. Left to itself, glibc learns
# from large bodies to keep them in the arenas of threads, where trimming does not reach. What the event loop reads at a
# time is smaller: mapping that costs seconds in a flood.
MAPPED_BYTES = 1024**2
_M_MMAP_THRESHOLD = -3


class Trimming:
    """For one event loop."""

    def __init__(self) -> None:
        self._planned: asyncio.TimerHandle | None = None

    def plan(self) -> None:
        """Trim in a while: once for all calls that come soon after another."""
        if self._planned is not None:
            self._planned.cancel()
        loop = asyncio.get_running_loop()
        # Not in the event loop: it walks through all memory.
        self._planned = loop.call_later(TRIM_AFTER_S, loop.run_in_executor, None, trim_memory)


def map_large_blocks() -> None:
    """From now on, in this process: see MAPPED_BYTES."""
    _tell_glibc("mallopt", _M_MMAP_THRESHOLD, MAPPED_BYTES)


def trim_memory() -> None:
    """Give what this process has freed back to the system."""
    _tell_glibc("malloc_trim", 0)


def _tell_glibc(function: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library, which has no such habit
            getattr(ctypes.CDLL(None), function)(*arguments)
