"""Bodies on their way in: each has a limit, and so has what all that are received or wait for an answer hold."""

from __future__ import annotations

import asyncio
from collections import Counter

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


class Intake:
    """What a server holds of bodies."""

    def __init__(self, max_body: int = MAX_BODY_BYTES, max_bodies: int = MAX_BODIES_BYTES) -> None:
        self.max_body = max_body
        self.max_bodies = max_bodies
        self.held = 0
        self._by_client: Counter[str] = Counter()
        self._unanswered: set[Incoming] = set()  # of those that hold something
        self._most_held = 0  # since there was nothing
        self._trimming = Trimming()

    def too_large(self) -> HttpError:
        """The error for a body over the limit."""
        return HttpError(413, f"the body is larger than {self.max_body} bytes", code="body_too_large", hint="send less")

    def take(self, taker: Incoming, n_bytes: int) -> None:
        """
        Where all is held, the largest body gives way of the client that holds most, so that nobody takes it all.

        Raises:
            Overloaded: that client would be the taker's.
        """
        while self.held + n_bytes > self.max_bodies:
            client, most = max(self._by_client.items(), key=lambda holds: holds[1], default=("", 0))
            largest = max(
                (one for one in self._unanswered if one.counts_as == client), key=lambda one: one.held, default=None
            )
            if largest is None or most <= self._by_client[taker.counts_as] + n_bytes:
                raise self.overloaded()
            largest.give_way()
        self.held += n_bytes
        self._by_client[taker.counts_as] += n_bytes
        self._unanswered.add(taker)
        self._most_held = max(self._most_held, self.held)

    def overloaded(self) -> Overloaded:
        """The error for a body that there is no room for."""
        held = f"pending requests hold {self.held} bytes; the limit is {self.max_bodies}"
        return Overloaded(held, hint="try again in a moment")

    def answers(self, holder: Incoming) -> None:
        """From now on it does not give way."""
        self._unanswered.discard(holder)

    def give_back(self, giver: Incoming, n_bytes: int) -> None:
        """What was taken is needed no more."""
        self.held -= n_bytes
        self.answers(giver)
        self._by_client[giver.counts_as] -= n_bytes
        if not self._by_client[giver.counts_as]:
            del self._by_client[giver.counts_as]
        if not self.held and self._most_held >= TRIM_BYTES:
            self._most_held = 0
            self._trimming.plan()


class Incoming:
    """`receive` of one request, made in its task. What has come counts as held until `release`; `incoming_of` finds it.

    `held`: bytes of it that count.
    """

    def __init__(self, scope: Scope, receive: Receive, intake: Intake) -> None:
        self.counts_as = clients.asks(scope)
        self.held = 0
        self._gave_way = self._is_answered = self._is_waiting = False
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
        """Cancel its task, for the sake of another client."""
        self._gave_way = True
        self._let_go()
        if self._task is not None:
            self._task.cancel()

    def refusal(self) -> Overloaded | None:
        """What its client is told, where the task was cancelled to give way; None where it was for another reason, or
        the answer has begun."""
        if not self._gave_way or self._is_answered or self._task is None or self._task.uncancel():
            return None
        return self._intake.overloaded()

    def waits(self) -> None:
        """The response will begin before the answer does: until `release` it is held, and may give way."""
        self._is_waiting = True

    def responds(self) -> None:
        """The response begins."""
        if self._is_waiting:
            self._is_answered = True
        else:
            self.release()

    def answered(self) -> None:
        """The answer has begun, and the body is needed all the same."""
        self._is_answered = True
        self._intake.answers(self)

    def release(self) -> None:
        """The answer has begun, or there will be none. Twice is fine."""
        self._is_answered = True
        self._let_go()

    def _let_go(self) -> None:
        if not self._released:
            self._released = True
            self._intake.give_back(self, self.held)
        self.held = 0


def incoming_of(scope: Scope) -> Incoming:
    incoming: Incoming = scope["state"]["incoming"]
    return incoming
