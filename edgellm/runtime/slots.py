"""What an engine's slots hold, and in which of them a request is computed with the least to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgellm.runtime.request_state import RequestState
from edgellm.types.adapter import AdapterSet

# A prefix in a slot that is in use is copied only where it saves more prefill than the copy costs.
MIN_FORK_TOKENS = 128
MIN_FORK_TOKENS_SHARED = 16


@dataclass(slots=True, eq=False)
class Slot:
    """What one slot's cache holds, and for whom."""

    tokens: list[int] = field(default_factory=list)
    adapters: AdapterSet = ()  # that these were computed with
    client: str = ""  # who knows all of these tokens
    request: RequestState | None = None
    used: int = 0  # step number of the last use, for choosing the one to give up


@dataclass(frozen=True, slots=True)
class Admission:
    """Give `request` its slot with the first `n_keep` tokens, copied from `source` where that is another slot."""

    request: RequestState
    slot: int
    source: int
    n_keep: int
    n_own: int  # tokens of the prefix that the same client has in a slot


def place(request: RequestState, slots: Sequence[Slot], *, fork_copies: bool) -> Admission:
    """The slot for it, one of those that are free. `fork_copies`: as in `EngineInfo`."""
    common = [shared(slot, request) for slot in slots]
    free = [index for index, slot in enumerate(slots) if slot.request is None]
    spare = min(free, key=lambda index: (_passes_with(index, slots), slots[index].used))
    # Longest prefix first; among equals the slot unused for longest.
    best = max(free, key=lambda index: (common[index], -slots[index].used))
    if common[best] * 2 < len(slots[best].tokens):
        # Most of another conversation would be lost for a beginning that all have, such as BOS or a system prompt.
        best = spare
    source = max(range(len(common)), key=lambda index: common[index])
    needed = MIN_FORK_TOKENS if fork_copies else MIN_FORK_TOKENS_SHARED
    if request.choice:
        needed = 1  # its prompt is never read twice where it need not be
    if common[source] < common[best] + needed:
        source = best
    else:
        # The copy overwrites its target: take the slot that loses least, not the one with the best prefix.
        best = spare
    own = [n for n, slot in zip(common, slots, strict=True) if slot.client == request.generation.client]
    return Admission(request, best, source, common[source], max(own, default=0))


def shared(slot: Slot, request: RequestState) -> int:
    """Tokens that the slot has of the prompt, and that need not be computed again."""
    if slot.adapters != request.adapters or request.computes_prompt:
        return 0
    # One token at least must be computed, or there are no logits to sample from.
    return min(common_prefix(slot.tokens, request.prompt), len(request.prompt) - (not request.next_tokens))


def _passes_with(index: int, slots: Sequence[Slot]) -> int:
    """Unbroken rows of slots in use if `index` were too.

    An engine whose cache is one block by slot (llama.cpp's streams) computes each row in a pass of its own, and
    each pass reads all weights.
    """
    used = {at for at, slot in enumerate(slots) if slot.request is not None} | {index}
    return sum(at - 1 not in used for at in used)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning, by comparing slices (C speed) in a binary search."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
