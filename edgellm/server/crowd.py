"""All connections of a server: how many there may be, which gives way when there are more, how long each may take."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from uvicorn.server import ServerState

from edgellm.errors import UsageError
from edgellm.errors.open_files import TOO_FEW
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
    unread_bytes: int = 32 * 1024**2  # of all connections, what they sent ahead of answers, or faster than it is read
    hurry_s: float = 2.0  # the same where there are no connections left, or for all clients together more waits than
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

    Where it is reached, one gives way to a new one, so that whoever opens thousands of connections takes them from
    nobody else (`_leaver`). In the same way those end that leave answers untaken, where all of these together are too
    large.
    """

    def __init__(self, most: int, deadlines: Deadlines) -> None:
        super().__init__()
        self.most = most
        self.deadlines = deadlines
        self._untaken: dict[Member, float] = {}  # since when something waits for its client, the oldest first
        self._hurrying: asyncio.TimerHandle | None = None
        self._unread: dict[Member, int] = {}  # bytes
        self._n_unread = 0  # of all
        self._members: dict[str, dict[Member, None]] = {}  # by address, the oldest first
        self._n_members = 0
        self._unasked: dict[str, dict[Member, None]] = {}  # without a whole request, by address, the oldest first
        self.pace = Pace()
        self._trimming = Trimming()
        self._n_received = 0  # bytes since memory was trimmed

    def enter(self, newcomer: Member) -> bool:
        """Whether there is room, or another could give way."""
        if self._n_members >= self.most:
            leaver = self._leaver(newcomer.counts_as)
            if leaver is None:
                return False
            self.leave(leaver)
            leaver.give_way()
        self._members.setdefault(newcomer.counts_as, {})[newcomer] = None
        self._n_members += 1
        self.awaits(newcomer)
        return True

    def _leaver(self, address: str) -> Member | None:
        """Who gives way to a newcomer of `address`: the oldest that has no whole request to be answered, of the address
        that has most of these; else one that has left its answer untaken for a while; else the newest of an address
        that has more connections than the newcomer's would have.
        """
        if self._unasked:
            return next(iter(_largest(self._unasked)))
        untaken = next(iter(self._untaken), None)
        if untaken is not None and self._left_s(untaken) <= 0:
            return untaken
        largest = _largest(self._members)
        return next(reversed(largest)) if len(largest) > len(self._members.get(address, {})) + 1 else None

    def receives(self, n_bytes: int) -> None:
        """A connection got them."""
        self._n_received += n_bytes

    def keeps(self, member: Member, n_bytes: int) -> None:
        """So much of what has come is not looked at yet. Where it is too much together, the connection ends that keeps
        most, of the address that does.
        """
        self._n_unread += n_bytes - self._unread.pop(member, 0)
        if n_bytes:
            self._unread[member] = n_bytes
        while self._n_unread > self.deadlines.unread_bytes:
            address = _most(self._unread)
            own = [one for one in self._unread if one.counts_as == address]
            largest = max(own, key=lambda one: self._unread[one])
            self.keeps(largest, 0)
            largest.give_way()

    def leave(self, member: Member) -> None:
        """It has ended. Twice is fine."""
        if self._n_received >= TRIM_BYTES:
            self._n_received = 0
            self._trimming.plan()
        own = self._members.get(member.counts_as, {})
        if member in own:
            del own[member]
            self._n_members -= 1
            if not own:
                del self._members[member.counts_as]
        self._untaken.pop(member, None)
        self.keeps(member, 0)
        self.asks(member)

    def awaits(self, member: Member) -> None:
        """Its next request has not come yet."""
        if member in self._members.get(member.counts_as, {}):
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
        while self._untaken and sum(member.untaken_bytes for member in self._untaken) > self.deadlines.untaken_bytes:
            address = _most({member: member.untaken_bytes for member in self._untaken})
            oldest = next(member for member in self._untaken if member.counts_as == address)
            if (left_s := self._left_s(oldest)) > 0:
                self._hurrying = asyncio.get_running_loop().call_later(left_s, self._hurry_again)
                return
            del self._untaken[oldest]
            oldest.give_way()

    def _left_s(self, member: Member) -> float:
        """To take what waits for it, where others need the room."""
        return self._untaken[member] + self.deadlines.hurry_s - asyncio.get_running_loop().time()

    def _hurry_again(self) -> None:
        self._hurrying = None
        self._hurry()


def _most(held: dict[Member, int]) -> str:
    """The address whose connections hold most together."""
    by_address: Counter[str] = Counter()
    for member, n_bytes in held.items():
        by_address[member.counts_as] += n_bytes
    ((address, _),) = by_address.most_common(1)
    return address


def _largest(by_address: dict[str, dict[Member, None]]) -> dict[Member, None]:
    return max(by_address.values(), key=len)


def open_descriptors() -> int:
    """How many this process has, of the first ones."""
    n_open = 0
    for descriptor in range(MOST_CONNECTIONS + OTHER_DESCRIPTORS):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            n_open += 1
    return n_open


def most_connections(n_taken: int = 0) -> int:
    """As many as the descriptors of this process allow; it takes as many as it is allowed to, and needs.

    Args:
        n_taken: descriptors that something else has, or needs at times.

    Raises:
        UsageError: none is left for connections.
    """
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
    most = min(MOST_CONNECTIONS, soft - max(min(OTHER_DESCRIPTORS, soft // 2), n_taken))
    if most < 1:
        message = f"this program may have {soft} files open, and needs {soft - most + 1} to answer anybody"
        raise UsageError(message, hint=TOO_FEW)
    return most
