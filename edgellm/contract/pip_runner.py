"""Runs pip under limits, as a program: `python -P pip_runner.py MEMORY FILE ARGUMENT...`. `contract.pip` starts it.

It needs nothing but Python's own library, so that a Python without EdgeLLM can run it.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from types import FrameType

FILE_LIMIT_STATUS = 120  # none of pip's own


def limit(memory_bytes: int, file_bytes: int) -> None:
    """From now on; 0 = none. A nearer limit stays. Memory on Linux only, and nothing on Windows."""
    if sys.platform == "win32":
        return
    import resource

    def lower(which: int, asked: int) -> bool:
        soft, hard = resource.getrlimit(which)
        if not asked or (soft != resource.RLIM_INFINITY and soft <= asked):
            return False
        resource.setrlimit(which, (asked, hard))
        return True

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        lower(resource.RLIMIT_DATA, memory_bytes)
    # Whether it was this limit or the disk's, pip cannot tell.
    if lower(resource.RLIMIT_FSIZE, file_bytes):
        signal.signal(signal.SIGXFSZ, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(FILE_LIMIT_STATUS)


def leave_with_parent() -> None:
    """Once stdin ends, which the parent holds open, this process and all that it started are killed.

    Unlike the kernel's death signal it does not depend on the thread that started this, nor on Linux.
    """
    watched = os.dup(0)  # not inherited
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_watch, args=(watched,), name="parent", daemon=True).start()


def _watch(watched: int) -> None:
    while os.read(watched, 1):
        pass
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    leave_with_parent()
    limit(int(sys.argv[1]), int(sys.argv[2]))
    sys.argv[:] = ["pip", *sys.argv[3:]]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
