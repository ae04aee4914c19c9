"""Whose text is made tokens next. A long one takes tenths of a second and a very long one seconds: none waits for one
that takes much longer.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from edgellm.runtime.long_text import LONG_TEXT, VERY_LONG_TEXT
from edgellm.server.turns import Turns

SHORT_PLACES = 3
# Of long ones, and of very long ones: each takes some 20 times the bytes of its body.
LONG_PLACES = 2


class CountingPlaces:
    """For one event loop."""

    def __init__(self) -> None:
        self._short = Turns(SHORT_PLACES, keeps_room=True)
        self._long = Turns(LONG_PLACES, keeps_room=True)
        self._very_long = Turns(LONG_PLACES, keeps_room=True)

    def turn(self, client: str, length: int) -> AbstractAsyncContextManager[object]:
        """A place to make tokens of a text of so many characters, or a text of so many tokens. TooManyRequests, as
        `Turns.turn`."""
        if length > VERY_LONG_TEXT:
            return self._very_long.turn(client)
        return (self._short if length <= LONG_TEXT else self._long).turn(client)
