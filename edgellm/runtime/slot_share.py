"""How slots are shared among clients: who gets the next one, and whose answer gives its own for that.

What they have of a step: `runtime/fair_share.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgellm.runtime.busy_step import BUSY_CHUNK
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.slots import Slot, common_prefix

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
    held = max(common_prefix(slot.tokens, request.prompt) for slot in slots)
    return len(request.prompt) - held > BUSY_CHUNK


def gives_way(
    running: Sequence[RequestState], stepping: Sequence[RequestState], waiting: RequestState
) -> RequestState | None:
    """The answer whose slot `waiting` should have; None where none is due. `stepping`: those of the next step."""
    held = _held(running)
    of_waiting = held[waiting.generation.client]

    def is_due(answer: RequestState) -> bool:
        n_more, n_since = held[answer.generation.client] - of_waiting, answer.n_generated - answer.n_before
        quantum = max(QUANTUM, answer.n_before)
        is_away = answer not in stepping and answer.adapters != waiting.adapters  # who waits would draw something
        part = 1 if n_more == 1 else AWAY_PART if is_away else EXCESS_PART
        return n_more > 0 and n_since >= quantum // part

    due = filter(is_due, running)
    return max(due, key=lambda a: (held[a.generation.client], a.n_generated - a.n_before), default=None)


def _held(running: Sequence[RequestState]) -> Counter[str]:
    """Slots by client."""
    return Counter(request.generation.client for request in running)
