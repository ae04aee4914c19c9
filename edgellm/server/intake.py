"""Bodies on their way in: each has a limit, and so has what all that are received or wait for an answer hold."""

from __future__ import annotations

from starlette.types import Message, Receive

from edgellm.errors import Overloaded
from edgellm.server.errors import HttpError

MAX_BODY_BYTES = 10 * 1024**2
MAX_BODIES_BYTES = 64 * 1024**2
# The first bytes of a body count for nothing: clients that hold all there is with large bodies leave room for small
# ones, which the number of connections limits.
FREE_BYTES = 16 * 1024


class Intake:
    """What a server holds of bodies."""

    def __init__(self, max_body: int = MAX_BODY_BYTES, max_bodies: int = MAX_BODIES_BYTES) -> None:
        self.max_body = max_body
        self.max_bodies = max_bodies
        self.held = 0

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
                f"requests that are being received or wait hold {self.held} bytes, {self.max_bodies} are allowed",
                hint="try again in a moment",
            )
        self.held += n_bytes


class Incoming:
    """`receive` of one request. What has come counts as held until `release`."""

    def __init__(self, receive: Receive, intake: Intake) -> None:
        self._receive = receive
        self._intake = intake
        self._size = 0
        self._held = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._intake.max_body:
                raise self._intake.too_large()
            more = max(0, self._size - FREE_BYTES) - self._held
            if more > 0:
                self._intake.take(more)
                self._held += more
        return message

    def release(self) -> None:
        """The answer has begun, or there will be none. Twice is fine."""
        self._intake.held -= self._held
        self._held = 0
