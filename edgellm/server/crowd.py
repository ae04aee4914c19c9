"""All connections of a server: how many there may be, which gives way when there are more, how long each may take."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from uvicorn.server import ServerState

from edgellm.server.pace import Pace
from edgellm.server.trimming import TRIM_BYTES, Trimming

MOST_CONNECTIONS = 4096
# Descriptors for everything else: the worker's pipes, files, the connections of one turn of the event loop, which are
# all taken before the first of them can give way.
OTHER_DESCRIPTORS = 192
BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a server is patient with one connection, in seconds."""

    headers_s: float = 10.0  # from the connection, or from the first byte of a further request, to the last header
    body_s: float = 30.0  # for a body, and beyond it one second for each:
    body_bytes: int = 64_000
    take_s: float = 60.0  # in which a client takes so little that what was written for it still waits
    hurry_s: float = 2.0  # the same where for all clients together more waits than
    untaken_bytes: int = 64 * 1024**2


class Member(Protocol):
    """A connection, as its crowd sees it."""

    counts_as: str  # the client, where clients take turns (`clients.one_of`)

    @property
    def untaken_bytes(self) -> int:
        """Of what was written for the client, what waits."""
        ...

    def give_way(self) -> None:
        """End at once."""
        ...


class Crowd(ServerState):
    """uvicorn's set of connections, with a limit.

    One that has no whole request to be answered gives way to a new one: the oldest of the address that has most of
    them. So whoever opens thousands of connections takes them from nobody else. In the same way those end that leave
    answers untaken, where all of these together are too large.
    """

    def __init__(self, most: int, deadlines: Deadlines) -> None:
        super().__init__()
        self.most = most
        self.deadlines = deadlines
        self._untaken: dict[Member, float] = {}  # since when something waits for its client, the oldest first
        self._hurrying: asyncio.TimerHandle | None = None
        self._members: set[Member] = set()
        self._unasked: dict[str, dict[Member, None]] = {}  # without a whole request, by address, the oldest first
        self.pace = Pace()
        self._trimming = Trimming()
        self._n_received = 0  # bytes since memory was trimmed

    def enter(self, newcomer: Member) -> bool:
        """Whether there is room, or another could give way."""
        if len(self._members) >= self.most:
            if not self._unasked:
                return False
            largest = max(self._unasked, key=lambda address: len(self._unasked[address]))
            oldest = next(iter(self._unasked[largest]))
            self.leave(oldest)
            oldest.give_way()
        self._members.add(newcomer)
        self.awaits(newcomer)
        return True

    def receives(self, n_bytes: int) -> None:
        """A connection got them."""
        self._n_received += n_bytes

    def leave(self, member: Member) -> None:
        """It has ended. Twice is fine."""
        if self._n_received >= TRIM_BYTES:
            self._n_received = 0
            self._trimming.plan()
        self._members.discard(member)
        self._untaken.pop(member, None)
        self.asks(member)

    def awaits(self, member: Member) -> None:
        """Its next request has not come yet."""
        if member in self._members:
            self._unasked.setdefault(member.counts_as, {})[member] = None

    def asks(self, member: Member) -> None:
        """A whole request of it is being answered."""
        own = self._unasked.get(member.counts_as, {})
        own.pop(member, None)
        if not own:
            self._unasked.pop(member.counts_as, None)

    def waits(self, member: Member) -> None:
        """What was written for its client is not taken at once."""
        self._untaken[member] = asyncio.get_running_loop().time()
        self._hurry()

    def goes_on(self, member: Member) -> None:
        """Its client has taken nearly all of it."""
        self._untaken.pop(member, None)

    def _hurry(self) -> None:
        """Where too much waits, end those that had time to take it."""
        if self._hurrying is not None:
            return
        loop = asyncio.get_running_loop()
        while self._untaken and sum(member.untaken_bytes for member in self._untaken) > self.deadlines.untaken_bytes:
            held: Counter[str] = Counter()
            for member in self._untaken:
                held[member.counts_as] += member.untaken_bytes
            ((address, _),) = held.most_common(1)
            oldest = next(member for member in self._untaken if member.counts_as == address)
            left_s = self._untaken[oldest] + self.deadlines.hurry_s - loop.time()
            if left_s > 0:
                self._hurrying = loop.call_later(left_s, self._hurry_again)
                return
            del self._untaken[oldest]
            oldest.give_way()

    def _hurry_again(self) -> None:
        self._hurrying = None
        self._hurry()


def most_connections() -> int:
    """As many as the descriptors of this process allow; it takes as many as it is allowed to, and needs."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    wanted = MOST_CONNECTIONS + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, soft - min(OTHER_DESCRIPTORS, soft // 2)))
