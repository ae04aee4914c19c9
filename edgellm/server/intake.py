"""Bodies on their way in: each has a limit, and so has what all that are received or wait for an answer hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from starlette.types import Message, Receive, Scope

from edgellm.errors import Overloaded
from edgellm.server import clients
from edgellm.server.errors import HttpError
from edgellm.server.trimming import TRIM_BYTES, Trimming

MAX_BODY_BYTES = 10 * 1024**2
MAX_BODIES_BYTES = 64 * 1024**2
# The first bytes of a body count for nothing: clients that hold all there is with large bodies leave room for small
# ones, which the number of connections limits.
FREE_BYTES = 16 * 1024
LARGE_BYTES = 64 * 1024  # reading a smaller one takes about a millisecond


class Holder(Protocol):
    """What holds a part, as its intake sees it.

    Attributes:
        held: bytes of it that count.
        is_in_case: it is kept only in case that it is needed again, or is nobody's request: it gives way first.
    """

    counts_as: str  # the client, where clients take turns (`clients.one_of`)
    held: int
    is_in_case: bool

    def give_way(self) -> None:
        """Let go of all, for the sake of another."""
        ...


class Intake:
    """What a server holds of bodies."""

    def __init__(self, max_body: int = MAX_BODY_BYTES, max_bodies: int = MAX_BODIES_BYTES) -> None:
        self.max_body = max_body
        self.max_bodies = max_bodies
        self.held = 0
        self._by_client: Counter[str] = Counter()
        self._holders: set[Holder] = set()
        self._most_held = 0  # since there was nothing
        self._trimming = Trimming()

    def too_large(self) -> HttpError:
        """The error for a body over the limit."""
        return HttpError(413, f"the body is larger than {self.max_body} bytes", code="body_too_large", hint="send less")

    def take(self, taker: Holder, n_bytes: int) -> None:
        """
        Where all is held, a body gives way of the client that holds most, so that nobody takes it all: the largest, of
        those first that are kept in case only. The taker's own give way to it where they are kept in case.

        Raises:
            Overloaded: that client would be the taker's.
        """
        while self.held + n_bytes > self.max_bodies:
            giver = self._giver(taker, n_bytes)
            if giver is None:
                raise self.overloaded()
            giver.give_way()
        self.held += n_bytes
        self._by_client[taker.counts_as] += n_bytes
        self._holders.add(taker)
        self._most_held = max(self._most_held, self.held)

    def _giver(self, taker: Holder, n_bytes: int) -> Holder | None:
        own = taker.counts_as
        client, most = max(self._by_client.items(), key=lambda holds: holds[1], default=("", 0))
        if most <= self._by_client[own] + n_bytes:
            client = own
        theirs = (one for one in self._holders if one.counts_as == client and (one.is_in_case or client != own))
        return max(theirs, key=lambda one: (one.is_in_case, one.held), default=None)

    def overloaded(self) -> Overloaded:
        """The error for a body that there is no room for."""
        held = f"pending requests hold {self.held} bytes; the limit is {self.max_bodies}"
        return Overloaded(held, hint="try again in a moment")

    def give_back(self, giver: Holder, n_bytes: int) -> None:
        """So much of what it holds is needed no more."""
        self.held -= n_bytes
        if n_bytes == giver.held:
            self._holders.discard(giver)
        self._by_client[giver.counts_as] -= n_bytes
        if not self._by_client[giver.counts_as]:
            del self._by_client[giver.counts_as]
        if not self.held and self._most_held >= TRIM_BYTES:
            self._most_held = 0
            self._trimming.plan()


class Incoming:
    """`receive` of one request, made in its task (`incoming_of`). What has come counts as held until `release`."""

    def __init__(self, scope: Scope, receive: Receive, intake: Intake) -> None:
        self.counts_as = clients.asks(scope)
        self.held = 0
        self.is_in_case = False
        self._give_way: Callable[[Overloaded], None] = self._cancel
        self._refusal: Overloaded | None = None
        self._task = asyncio.current_task()
        self._receive = receive
        self._intake = intake
        self._size = 0
        self._released = False
        scope.setdefault("state", {})["incoming"] = self

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._intake.max_body:
                raise self._intake.too_large()
            self._count()
        return message

    def names(self, n_bytes: int) -> None:
        """The body names so much that is kept here, which counts as if it had been sent.

        Raises:
            Overloaded: as `Intake.take`.
        """
        self._size += n_bytes
        self._count()

    def _count(self) -> None:
        more = max(0, self._size - FREE_BYTES) - self.held
        if more > 0 and not self._released:
            self._intake.take(self, more)
            self.held += more

    def give_way(self) -> None:
        """For the sake of another body: its task is cancelled, unless `waits` or `answered` said what is done."""
        refusal = self._intake.overloaded()
        self.release()
        self._give_way(refusal)

    def _cancel(self, refusal: Overloaded) -> None:
        self._refusal = refusal
        if self._task is not None:
            self._task.cancel()

    def refusal(self) -> Overloaded | None:
        """What its client is told, where the task was cancelled to give way; None where it was for another reason."""
        refusal, self._refusal = self._refusal, None
        return None if refusal is None or self._task is None or self._task.uncancel() else refusal

    def waits(self, refuse: Callable[[Overloaded], None]) -> None:
        """The response will begin before the answer does: until `release` it is held, and may give way by `refuse`."""
        self._give_way = refuse

    def responds(self) -> None:
        """The response begins.

        Raises:
            CancelledError: it has just given way, of which its task is to hear.
        """
        self._check_kept()
        if self._give_way == self._cancel:
            self.release()

    def answered(self, let_go: Callable[[], None]) -> None:
        """The answer begins, and the body is kept in case: it gives way by `let_go`. CancelledError, as `responds`."""
        self._check_kept()
        self.is_in_case = True
        self._give_way = lambda _: let_go()

    def _check_kept(self) -> None:
        if self._refusal is not None:
            raise asyncio.CancelledError

    def release(self) -> None:
        """The answer has begun, or there will be none. Twice is fine."""
        if not self._released:
            self._released = True
            self._intake.give_back(self, self.held)
        self.held = 0


def incoming_of(scope: Scope) -> Incoming:
    incoming: Incoming = scope["state"]["incoming"]
    return incoming
