"""A time limit for what a backend does: one that hangs fails the test that met it, with its stack, and pytest goes on.

It needs no signals, so it holds for native code and on every system: the work is done in a thread, and is left behind
there when its time is over.
"""

from __future__ import annotations

import functools
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
ClassT = TypeVar("ClassT", bound=type[Any])


class Hangs(AssertionError):
    """Something did not come back in its time."""

    @classmethod
    def in_thread(cls, what: str, limit_s: float, thread: threading.Thread) -> Hangs:
        """With the innermost calls of the thread that hangs."""
        frame = sys._current_frames().get(thread.ident or 0)
        calls = "".join(traceback.format_stack(frame)[-4:]) if frame is not None else ""
        return cls(f"{what} has not come back after {limit_s:g} s (see `limit_s`); it is in\n{calls}")


def within(limit_s: float, what: str, call: Callable[[], T]) -> T:
    """What `call` returns or raises.

    Raises:
        Hangs: it does neither in `limit_s` seconds.
    """
    __tracebackhide__ = True
    outcomes: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcomes.put((call(), None))
        except BaseException as error:
            outcomes.put((None, error))

    thread = threading.Thread(target=run, name=f"contract: {what}", daemon=True)
    thread.start()
    try:
        value, error = outcomes.get(timeout=limit_s)
    except queue.Empty:
        raise Hangs.in_thread(what, limit_s, thread) from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # of type T, as there is no error


def limited(contract: ClassT) -> ClassT:
    """Class decorator: each of its tests takes at most the class's `limit_s`. The first that hangs is `hung_in`."""
    for name, test in list(vars(contract).items()):
        if name.startswith("test_"):
            setattr(contract, name, _limited(test))
    return contract


def _limited(test: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(self: Any, *engine: Any, **fixtures: Any) -> None:
        __tracebackhide__ = True
        try:
            within(self.limit_s, test.__name__, functools.partial(test, self, *engine, **fixtures))
        except Hangs:
            type(self).hung_in = type(self).hung_in or test.__name__
            raise

    return run
