"""Who waits for what a thread makes, and may go away. Nothing ends a thread from outside, so what waits in it asks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from edgellm.errors import Closed


class Waiter:
    """For one call in another thread, whose context has it (`of_this_context`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_begun = self._has_left = False
        self._told: list[Callable[[], object]] = []

    def begins(self) -> bool:
        """The call begins. Whether it is to."""
        with self._lock:
            self._has_begun = not self._has_left
            return self._has_begun

    def leave(self) -> bool:
        """Nobody waits any more. Whether the call has begun, and goes on until it notices."""
        with self._lock:
            self._has_left = True
            for tell in self._told:
                tell()
            return self._has_begun

    @contextlib.contextmanager
    def telling(self, tell: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            if self._has_left:
                raise unwanted()
            self._told.append(tell)
        try:
            yield
        finally:
            with self._lock:
                self._told.remove(tell)


of_this_context: ContextVar[Waiter | None] = ContextVar("of_this_context", default=None)


@contextlib.contextmanager
def told_of_leaving(tell: Callable[[], object]) -> Iterator[None]:
    """In the block `tell` is called, in another thread, where nobody waits any more for what this thread makes.

    Raises:
        Closed: nobody does already.
    """
    waiter = of_this_context.get()
    with contextlib.nullcontext() if waiter is None else waiter.telling(tell):
        yield


def unwanted() -> Closed:
    return Closed("nobody waits for it any more")
