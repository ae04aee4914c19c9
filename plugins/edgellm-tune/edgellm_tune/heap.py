"""What the C library keeps of freed memory."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """All free pages, also those between blocks that are in use. A page that is wanted again costs a microsecond, so it
    is worth it where much was freed and other sizes follow: a heap keeps the sum of both otherwise."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc's
        trim(0)
