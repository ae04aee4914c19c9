"""Bodies on their way in: each has a limit, and so has what all that are received or wait for an answer hold."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys

from starlette.types import Message, Receive

from edgellm.errors import Overloaded
from edgellm.server.errors import HttpError

MAX_BODY_BYTES = 10 * 1024**2
MAX_BODIES_BYTES = 64 * 1024**2
# The first bytes of a body count for nothing: clients that hold all there is with large bodies leave room for small
# ones, which the number of connections limits.
FREE_BYTES = 16 * 1024
# What was held of bodies goes back to the system when all are gone and it was as much as this: glibc would keep it.
TRIM_BYTES = 4 * 1024**2
TRIM_AFTER_S = 2.0  # when what was made of the last one is gone, too
# Blocks from this size on are mapped one by one, and go back as soon as they are freed. Left to itself, glibc learns
# from large bodies to keep them in the arenas of threads, where trimming does not reach. What the event loop reads at a
# time is smaller: mapping that costs seconds in a flood.
MAPPED_BYTES = 1024**2
_M_MMAP_THRESHOLD = -3


class Intake:
    """What a server holds of bodies."""

    def __init__(self, max_body: int = MAX_BODY_BYTES, max_bodies: int = MAX_BODIES_BYTES) -> None:
        self.max_body = max_body
        self.max_bodies = max_bodies
        self.held = 0
        self._most_held = 0  # since there was nothing
        self._trimming: asyncio.TimerHandle | None = None

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
            if self._trimming is not None:
                self._trimming.cancel()  # one for all that come soon after another
            loop = asyncio.get_running_loop()
            # Not in the event loop: it walks through all memory.
            self._trimming = loop.call_later(TRIM_AFTER_S, loop.run_in_executor, None, trim_memory)


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


def map_large_blocks() -> None:
    """From now on, in this process: see MAPPED_BYTES."""
    _tell_glibc("mallopt", _M_MMAP_THRESHOLD, MAPPED_BYTES)


def trim_memory() -> None:
    """Give what this process has freed back to the system."""
    _tell_glibc("malloc_trim", 0)


def _tell_glibc(function: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library, which has no such habit
            getattr(ctypes.CDLL(None), function)(*arguments)
