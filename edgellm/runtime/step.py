"""One batch: the tokens of running answers first, and of the budget that is left parts of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgellm.contract.engine import SlotInput
from edgellm.runtime.fair_share import Prompt, portions
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.slots import Slot


@dataclass(frozen=True, slots=True)
class Step:
    """Entries, and for each entry its request, in the same order."""

    batch: tuple[SlotInput, ...]
    requests: tuple[RequestState, ...]


def step_of(running: Sequence[RequestState], slots: Sequence[Slot], budget: int, max_logits: int) -> Step:
    """The step of `running`, with `budget` tokens and `max_logits` rows. Changes nothing."""
    decoding = [request for request in running if request.decoding]
    reading = [request for request in running if not request.decoding]
    entries = list(_of_answers(decoding, slots, budget))
    budget -= sum(len(entry.tokens) for entry, _ in entries)
    entries += _of_prompts(reading, budget, max_logits - len(running))
    # In order of slots: neighbours can be computed in one pass (`slots.place`).
    entries.sort(key=lambda pair: pair[0].slot)
    return Step(tuple(entry for entry, _ in entries), tuple(request for _, request in entries))


def _of_answers(
    decoding: Sequence[RequestState], slots: Sequence[Slot], budget: int
) -> Iterator[tuple[SlotInput, RequestState]]:
    """Each with the token that was drawn last, and those that its grammar forces."""
    for n_others, request in zip(reversed(range(len(decoding))), decoding, strict=True):
        # One token at least is left for each of the others.
        tokens = request.next_tokens[: budget - n_others]
        n_past = len(slots[request.slot].tokens)
        n_logits = int(len(tokens) == len(request.next_tokens))
        yield SlotInput(request.slot, n_past, tokens, n_logits, request.adapters), request
        budget -= len(tokens)


def _of_prompts(
    reading: Sequence[RequestState], budget: int, spare_rows: int
) -> Iterator[tuple[SlotInput, RequestState]]:
    for request, size in zip(reading, _sizes(reading, budget, spare_rows), strict=True):
        if size > 0:
            start = request.n_prefilled
            chunk = tuple(request.prompt[start : start + size])
            # A choice that has its first token already, and whose slot was lost, has no use for logits.
            draws = start + len(chunk) == len(request.prompt) and not request.next_tokens
            n_logits = len(chunk) if request.tells_prompt else int(draws)
            yield SlotInput(request.slot, start, chunk, n_logits, request.adapters), request


def _sizes(reading: Sequence[RequestState], budget: int, spare_rows: int) -> list[int]:
    """Tokens of each prompt in a step that has `budget` for them. Each has a row of logits beside the spare ones."""
    prompts = [Prompt(request.generation.client, request.n_left, request.next_chunk) for request in reading]
    tells = [at for at, request in enumerate(reading) if request.tells_prompt]
    rows = portions([prompts[at] for at in tells], spare_rows)
    for at, n_rows in zip(tells, rows, strict=True):
        prompts[at] = prompts[at]._replace(most=min(prompts[at].most, 1 + n_rows))
    return portions(prompts, budget)
