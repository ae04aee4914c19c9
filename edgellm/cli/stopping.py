"""How a command that runs until it is stopped ends: by a service manager, or with its terminal."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import click

from edgellm.contract.child import end_children

if TYPE_CHECKING:
    from edgellm.server.listener import Listener

Say = Callable[[str], None]
INTERRUPTED = 130


@contextlib.contextmanager
def ends_clean() -> Iterator[None]:
    """A service manager that stops us gets status 0, whatever we were at."""
    try:
        yield
    except SystemExit as leaving:
        if leaving.code not in [128 + number for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if number]:
            raise
        leaves_at_once()
        click.get_current_context().exit(0)


def leaves_at_once() -> None:
    """After the first signal: a second one ends the program wherever it is, with 130, until there is no Python left."""
    numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, _leave)
    # While Python ends, a handler of its own would give way to the system's, which ends us by the signal.
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in numbers])


def _leave(_number: int, _frame: FrameType | None) -> None:
    end_children()
    os._exit(INTERRUPTED)


@dataclass(slots=True)
class StopSignal:
    """The signal that came; 0 = none."""

    number: int = 0


@contextlib.contextmanager
def asks_to_stop(ask: Callable[[], None]) -> Iterator[StopSignal]:
    """Ctrl-C, SIGTERM and SIGHUP ask what the block does to end by itself; a second one ends it at once."""
    asked = StopSignal()

    def stop(number: int, frame: FrameType | None) -> None:
        if asked.number:
            raise SystemExit(128 + number)
        asked.number = number
        ask()

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    replaced = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in replaced:
        signal.signal(number, stop)
    try:
        yield asked
    finally:
        for number in replaced:
            signal.signal(number, before[number])


@contextlib.contextmanager
def hangups_refused(warn: Say) -> Iterator[None]:
    """SIGHUP says that the terminal is gone, which ends us. Where there is none, it asks to reload: not possible."""

    def refuse(_number: int, _frame: FrameType | None) -> None:
        warn("SIGHUP changes nothing: a server does not read its settings again; start it anew.")

    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL or _has_terminal():
        yield
        return
    signal.signal(signal.SIGHUP, refuse)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def stop_on_hangup(server: Listener) -> None:
    """Where the terminal goes away from now on, running answers are finished."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal():
        signal.signal(signal.SIGHUP, server.handle_exit)


def _has_terminal() -> bool:
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
