"""Standard streams: some programs start others with these closed, and what is opened next would take their place."""

from __future__ import annotations

import os
import sys

STDOUT, STDERR = 1, 2


def open_streams() -> None:
    """Those that are closed lead to nothing, here and in the processes that this one starts."""
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(lowest, True)
    os.close(lowest)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
