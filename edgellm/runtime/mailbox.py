"""Messages to a worker, on either side of its pipe: any thread puts, and putting never waits for anything.

So a garbage collector may put as well: wherever it runs, it may close an abandoned answer, which cancels its request.
"""

from __future__ import annotations

import enum
import itertools
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from edgellm.runtime import wire
from edgellm.types.adapter import DropAdapter, LoadAdapter

M = TypeVar("M")


class Inbox(Protocol):
    """Messages of the parent, in order: a `Mailbox` or a queue."""

    def get(self, block: bool, timeout: float | None) -> Any:
        """The next; raises queue.Empty where there is none, after `timeout` seconds if `block` is true."""
        ...

    def put(self, message: Any) -> None:
        """Add one of our own."""
        ...


class _Mark(enum.Enum):
    WAKE = enum.auto()
    CLEAR = enum.auto()


class Mailbox(Generic[M]):
    """In order of arrival. A cancel that meets its request takes it out, and neither goes on.

    So what nobody waits for any more is gone before work is spent on it, even if the one that takes is busy meanwhile.
    An adapter is loaded or dropped all the same: that is a change of the model, not an answer to somebody.
    """

    def __init__(self) -> None:
        # The one kind of queue that a collector may put into while the same thread is inside of it.
        self._arrived: queue.SimpleQueue[M | _Mark] = queue.SimpleQueue()
        self._taking = threading.Lock()  # held by the one that sorts, takes or waits
        self._messages: OrderedDict[int, M] = OrderedDict()  # requests by their ids, the others by numbers below 0
        self._numbers = itertools.count(-1, -1)

    def put(self, message: M) -> None:
        self._put(message)

    def get(self, block: bool = True, timeout: float | None = None) -> M:
        """The oldest message, as from a queue.

        Raises:
            queue.Empty: there is none, after `timeout` seconds (None = for ever) if `block` is true.
        """
        with self._taking:
            while not self._sorted():
                self._sort(self._arrived.get(block, timeout))
            return self._messages.popitem(last=False)[1]

    def get_unless(self, ended: Callable[[], bool]) -> M | None:
        """The oldest message; waits for one. None as soon as `ended()`: who makes that true calls `wake`."""
        with self._taking:
            while not ended():
                if self._sorted():
                    if ended():  # meanwhile: what came after that is for the next one that takes
                        return None
                    return self._messages.popitem(last=False)[1]
                self._sort(self._arrived.get())
            return None

    def wake(self) -> None:
        """Let `get_unless` look again whether it ended."""
        self._put(_Mark.WAKE)

    def clear(self) -> None:
        """Remove what was put so far."""
        self._put(_Mark.CLEAR)

    def _put(self, item: M | _Mark) -> None:
        self._arrived.put(item)
        # Whoever has the lock sorts before it takes. Where nobody has, a cancelled request need not wait for that.
        if self._taking.acquire(blocking=False):
            try:
                self._sorted()
            finally:
                self._taking.release()

    def _sorted(self) -> bool:
        """Sort what has arrived; whether there are messages then."""
        while not self._arrived.empty():
            self._sort(self._arrived.get())
        return bool(self._messages)

    def _sort(self, item: M | _Mark) -> None:
        if isinstance(item, _Mark):
            if item is _Mark.CLEAR:
                self._messages.clear()
        elif not (isinstance(item, wire.Cancel) and self._meets(item)):
            self._messages[item.id if isinstance(item, wire.Submit) else next(self._numbers)] = item

    def _meets(self, cancel: wire.Cancel) -> bool:
        """Whether its request is still here, which it takes out where it may."""
        match self._messages.get(cancel.id):
            case None:
                return False
            case wire.Submit(_, LoadAdapter() | DropAdapter()):
                return True
        del self._messages[cancel.id]
        return True
