"""What answers hold that is not sent yet: of a stream what its client does not take, of a whole answer all so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edgellm.errors import Overloaded
from edgellm.server.intake import Intake
from edgellm.types.event import Delta, Event

MAX_UNSENT_BYTES = 64 * 1024**2  # of all answers together
# Measured on CPython 3.11, rounded up: what an event takes besides its text, a token's logprob, an alternative to it.
EVENT_BYTES, LOGPROB_BYTES, ALTERNATIVE_BYTES = 160, 200, 160


def room_for_unsent() -> Intake:
    """For one server."""
    return Intake(max_bodies=MAX_UNSENT_BYTES)


class Unsent:
    """Of one request. Where all together hold too much, `refuse` is called for the one that holds most, of the client
    that does; what it holds is then to be let go."""

    is_in_case = True  # so that of one client's the largest gives way, and not the one that comes next

    def __init__(self, client: str, room: Intake, refuse: Callable[[Overloaded], None]) -> None:
        self.counts_as = client
        self.held = 0
        self.has_ended = False
        self._room = room
        self._refuse = refuse

    def add(self, events: Iterable[Event]) -> int:
        """Returns what these take, in bytes."""
        n_bytes = sum(map(bytes_of, events))
        if not self.has_ended:
            self._take(n_bytes)
        return n_bytes

    def _take(self, n_bytes: int) -> None:
        try:
            self._room.take(self, n_bytes)
        except Overloaded:  # no other has as much
            self.give_way()
            return
        self.held += n_bytes
        if self.has_ended:  # it gave way to itself
            self.take_off(self.held)

    def take_off(self, n_bytes: int) -> None:
        """So much was sent."""
        n_bytes = min(n_bytes, self.held)
        self._room.give_back(self, n_bytes)
        self.held -= n_bytes

    def end(self) -> None:
        """All is sent, or nothing more will be. Twice is fine."""
        self.has_ended = True
        self.take_off(self.held)
        self._refuse = _nobody  # what it is of refers to this, which would only be garbage together with it

    def give_way(self) -> None:
        """For the sake of others, or because there is no room for it alone. Twice is fine."""
        if self.has_ended:
            return
        held = f"answers that are not sent yet hold {self._room.held:,} bytes; the limit is {self._room.max_bodies:,}"
        refuse = self._refuse
        self.end()
        refuse(Overloaded(held, hint="take streams as they come, and ask for fewer answers or logprobs at a time"))


def _nobody(_: Overloaded) -> None:
    """Who has ended is not told any more."""


def bytes_of(event: Event) -> int:
    """About what it takes of memory."""
    if not isinstance(event, Delta):
        return EVENT_BYTES
    n_alternatives = sum(len(logprob.top) for logprob in event.logprobs)
    told = LOGPROB_BYTES * len(event.logprobs) + ALTERNATIVE_BYTES * n_alternatives
    return EVENT_BYTES + len(event.text) + told
