"""Threads that plugins start and leave behind: Python waits for them at the end of a program, without a word."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_left: list[tuple[str, threading.Thread]] = []


@contextlib.contextmanager
def noted(whose: str) -> Iterator[None]:
    """Threads that are started in the block, and that a program waits for, are `whose`."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        _left.extend((whose, one) for one in threading.enumerate() if one not in before and not one.daemon)


def still_there(patience_s: float) -> list[str]:
    """Those that have not ended within so many seconds, in words: `"plugin thr: thread 'Thread-1 (loop)'"`."""
    for _, thread in _left:
        thread.join(patience_s / len(_left))
    return list({f"{whose}: thread {thread.name!r}": None for whose, thread in _left if thread.is_alive()})
