"""Messages to a worker, on either side of its pipe: any thread puts, and putting never waits for the one that takes."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from edgellm.runtime import wire

M = TypeVar("M")


class Mailbox(Generic[M]):
    """In order of arrival. A cancel that meets its request takes it out, and neither goes on.

    So what nobody waits for any more is gone before work is spent on it, even if the one that takes is busy meanwhile.
    """

    def __init__(self) -> None:
        # Reentrant: the garbage collector may close an abandoned answer, which cancels its request, in here.
        self._changed = threading.Condition()
        self._messages: OrderedDict[int, M] = OrderedDict()  # requests by their ids, the others by numbers below 0
        self._numbers = itertools.count(-1, -1)

    def put(self, message: M) -> None:
        with self._changed:
            if isinstance(message, wire.Cancel) and self._messages.pop(message.id, None) is not None:
                return
            key = message.id if isinstance(message, wire.Submit) else next(self._numbers)
            self._messages[key] = message
            self._changed.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> M:
        """The oldest message, as from a queue.

        Raises:
            queue.Empty: there is none, after `timeout` seconds (None = for ever) if `block` is true.
        """
        with self._changed:
            if not self._messages and not (block and self._changed.wait_for(lambda: self._messages, timeout)):
                raise queue.Empty
            return self._messages.popitem(last=False)[1]

    def get_unless(self, ended: Callable[[], bool]) -> M | None:
        """The oldest message; waits for one. None as soon as `ended()`: who makes that true calls `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: ended() or self._messages)
            return None if ended() else self._messages.popitem(last=False)[1]

    def wake(self) -> None:
        """Let `get_unless` look again whether it ended."""
        with self._changed:
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._messages.clear()
