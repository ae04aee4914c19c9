"""How slots are shared among clients: who gets the next one, and who gives its own for that.

An answer gives way after a quantum. A prompt that is being read gives way at once where its client still has as many
slots as the other then; its client's only one does so once, for a much shorter prompt of a client that has no slot. No
more tokens of a prompt are read again for that than it has. What clients have of a step: `runtime/fair_share.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgellm.runtime.busy_step import BUSY_CHUNK
from edgellm.runtime.fair_share import MUCH_SHORTER
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.slots import Slot, shared

# Tokens that an answer has in a slot before it gives that to another client; or as many as it had before, so
# that less is read again than is drawn. One of a client that has more slots than the other does so after an eighth.
QUANTUM, EXCESS_PART = 256, 8
# And after a 64th where other adapters have their turn now: it would draw nothing with the slot.
AWAY_PART = 64


def next_waiting(waiting: Sequence[RequestState], running: Sequence[RequestState]) -> RequestState | None:
    """Of the client that has the fewest slots, the first that came."""
    held = _held(running)
    return min(waiting, key=lambda request: held[request.generation.client], default=None)


def can_wait(
    request: RequestState, running: Sequence[RequestState], slots: Sequence[Slot], max_batch_tokens: int
) -> bool:
    """Whether its prompt is long, and would be read no sooner for a slot: others of its client fill the steps."""
    own = [other for other in running if other.generation.client == request.generation.client]
    if request.next_tokens or sum(other.n_left for other in own) < max_batch_tokens:
        return False
    held = max(shared(slot, request) for slot in slots)
    return len(request.prompt) - held > BUSY_CHUNK


def gives_way(
    running: Sequence[RequestState], stepping: Sequence[RequestState], waiting: RequestState
) -> RequestState | None:
    """Whose slot `waiting` should have; None where nobody's is due. `stepping`: those of the next step."""
    held = _held(running)
    of_waiting = held[waiting.generation.client]

    def is_due(answer: RequestState) -> bool:
        n_more, n_since = held[answer.generation.client] - of_waiting, answer.n_generated - answer.n_before
        if answer.n_left:
            return _prompt_is_due(answer, waiting, n_more, has_none=not of_waiting)
        quantum = max(QUANTUM, answer.n_before)
        is_away = answer not in stepping and answer.adapters != waiting.adapters  # who waits would draw something
        part = 1 if n_more == 1 else AWAY_PART if is_away else EXCESS_PART
        return n_more > 0 and n_since >= quantum // part

    def order(due: RequestState) -> tuple[int, int, int]:
        """Least is read again of it; the last that came is the first of equals."""
        return held[due.generation.client], -due.n_prefilled, due.n_generated - due.n_before

    return max(filter(is_due, reversed(running)), key=order, default=None)


def _prompt_is_due(prompt: RequestState, waiting: RequestState, n_more: int, *, has_none: bool) -> bool:
    """`n_more`: slots that its client has more than the other, `has_none`: who has none."""
    n_lost = prompt.n_lost + prompt.n_prefilled
    if n_more > 1:
        return n_lost <= len(prompt.prompt)
    # The only one of its client. It has had a step, so that what it loses counts, and who waits had none of its own.
    is_shorter = not waiting.next_tokens and waiting.n_left * MUCH_SHORTER <= prompt.n_left
    return n_more == 1 and has_none and is_shorter and not prompt.n_lost and 0 < prompt.n_prefilled <= prompt.n_left


def _held(running: Sequence[RequestState]) -> Counter[str]:
    """Slots by client."""
    return Counter(request.generation.client for request in running)
