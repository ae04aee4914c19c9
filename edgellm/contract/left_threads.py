"""Threads that plugins start and leave behind: Python waits for them at the end of a program, without a word."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

OURS = "edgellm-"  # how the names of our own begin
_left: list[tuple[str, threading.Thread]] = []
_rest_is_of_command = False


@contextlib.contextmanager
def noted(whose: Callable[[], str]) -> Iterator[None]:
    """Threads that are started in the block, and that a program waits for, are the doing of `whose()`."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        if new := [thread for thread in _waited_for() if thread not in before]:
            _left.extend((whose(), thread) for thread in new)


def rest_is_of_command() -> None:
    """The command that runs is a plugin's: what it leaves running is waited for, as in any program."""
    global _rest_is_of_command  # noqa: PLW0603 - a process has one command
    _rest_is_of_command = True


def still_there(patience_s: float) -> list[str]:
    """Those that have not ended within so many seconds, in words: `"plugin thr: thread 'Thread-1 (loop)'"`."""
    _end_idle_pools()
    until = time.monotonic() + patience_s
    owners = {thread: whose for whose, thread in reversed(_left)}  # of two that were asked at once, the first to see it
    threads = [thread for thread in _waited_for() if thread in owners or not _rest_is_of_command]
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    names: dict[str, list[str]] = {}
    for thread in threads:
        if thread.is_alive():
            names.setdefault(owners.get(thread, "a plugin or a library"), []).append(thread.name)
    return [
        f"{whose}: thread {first!r}{f' and {len(more)} more' * bool(more)}" for whose, (first, *more) in names.items()
    ]


def _waited_for() -> list[threading.Thread]:
    """Those that Python waits for at its end, and that are none of ours."""
    main = threading.main_thread()
    return [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not main and not thread.name.startswith(OURS)
    ]


def _end_idle_pools() -> None:
    """Threads of an executor that nobody shut down wait for work, until Python tells them at its end that none comes.
    They are told here already, in a thread of its own, as the call waits for those that still work."""
    end = getattr(sys.modules.get("concurrent.futures.thread"), "_python_exit", None)
    if end is not None:
        threading.Thread(target=end, name=f"{OURS}pools", daemon=True).start()
