"""Bodies on their way in: each has a limit, and so has what all that are received or wait for an answer hold."""

from __future__ import annotations

from starlette.types import Message, Receive

from edgellm.errors import Overloaded
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
        self._most_held = 0  # since there was nothing
        self._trimming = Trimming()

    def too_large(self) -> HttpError:
        """The error for a body over the limit."""
        return HttpError(413, f"the body is larger than {self.max_body} bytes", code="body_too_large", hint="send less")

    def take(self, n_bytes: int) -> None:
        """
        Raises:
            Overloaded: the server holds too much already.
        """
        if self.held + n_bytes > self.max_bodies:
            raise Overloaded(
                f"pending requests hold {self.held} bytes; the limit is {self.max_bodies}",
                hint="try again in a moment",
            )
        self.held += n_bytes
        self._most_held = max(self._most_held, self.held)

    def give_back(self, n_bytes: int) -> None:
        """What was taken is needed no more."""
        self.held -= n_bytes
        if not self.held and self._most_held >= TRIM_BYTES:
            self._most_held = 0
            self._trimming.plan()


class Incoming:
    """`receive` of one request. What has come counts as held until `release`."""

    def __init__(self, receive: Receive, intake: Intake) -> None:
        self._receive = receive
        self._intake = intake
        self._size = 0
        self._held = 0
        self._released = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._intake.max_body:
                raise self._intake.too_large()
            more = max(0, self._size - FREE_BYTES) - self._held
            if more > 0 and not self._released:
                self._intake.take(more)
                self._held += more
        return message

    def release(self) -> None:
        """The answer has begun, or there will be none. Twice is fine."""
        self._released = True
        self._intake.give_back(self._held)
        self._held = 0
