"""The stack of threads that run an engine's native code."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# As a main thread's. Others' are 128 KiB with musl, and what the limit on stacks says with glibc.
STACK_BYTES = 8 << 20


@contextmanager
def large_stack() -> Iterator[None]:
    """Threads that are started within have it, those that another thread starts meanwhile, too."""
    before = threading.stack_size(STACK_BYTES)
    try:
        yield
    finally:
        threading.stack_size(before)
