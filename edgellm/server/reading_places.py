"""Whose body is read next, and made a request of: a template and counts for cuts may take a second.

A short body that is not read without the model's tokens waits for a step, or for several: not in a place of short ones.
Both kinds of places together are no more than asyncio has threads on one processor, and short bodies have their own.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from edgellm.server.turns import Turns

SHORT_PLACES, LONG_PLACES = 3, 2
SHORT_BYTES = 16 * 1024


class ReadingPlaces:
    """For one event loop."""

    def __init__(self) -> None:
        self._short = Turns(SHORT_PLACES, keeps_room=True)
        self._long = Turns(LONG_PLACES, keeps_room=True)

    def turn(self, client: str, *, short: bool) -> AbstractAsyncContextManager[object]:
        """A place to read a body. TooManyRequests, as `Turns.turn`."""
        return (self._short if short else self._long).turn(client)


def is_short(n_bytes: int, *, has_more: bool) -> bool:
    """Whether a body of so many bytes is read so soon that nobody waits for it, unless it asks the model. `has_more`:
    what it goes on from is read, too."""
    return n_bytes <= SHORT_BYTES and not has_more
