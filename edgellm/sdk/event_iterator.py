"""An iterator of events, as `EdgeLLM.generate` and `stream` return it: for one thread at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from edgellm.errors import UsageError
from edgellm.types.event import Event


class EventIterator(Generator[Event, None, None]):
    """Events of one request. Raises UsageError where two threads use it at the same time."""

    def __init__(self, events: Generator[Event, None, None]) -> None:
        self._events = events

    def send(self, value: None) -> Event:
        with _one_thread(self._events):
            return self._events.send(value)

    def throw(self, *error: Any) -> Event:
        with _one_thread(self._events):
            return self._events.throw(*error)

    def close(self) -> None:
        """Cancel the request. Twice is fine."""
        with _one_thread(self._events):
            self._events.close()


@contextlib.contextmanager
def _one_thread(events: Any) -> Iterator[None]:
    """
    Raises:
        UsageError: another thread waits for the next of these events.
    """
    if not events.gi_running:
        yield
        return
    hint = "close it in the thread that reads it; timeout= ends an answer that is late, close() of the model all"
    raise UsageError("another thread waits for the next event of this stream", hint=hint)
