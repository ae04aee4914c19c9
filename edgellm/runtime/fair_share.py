"""How a step's tokens are shared among prompts: by client first, so that one client's do not hold up another's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

# A prompt passes an older one of the same client that has so many times its tokens left. Of prompts more alike the
# older would end much later, and the other little sooner.
MUCH_SHORTER = 4


class Prompt(NamedTuple):
    """One that is being read. `most`: of the tokens that are left, those that may be read in this step."""

    client: str
    n_left: int
    most: int


def shares(wanted: Mapping[K, int], budget: int) -> dict[K, int]:
    """The same for each, but for those that want less, whose rest the others have (max-min fairness)."""
    given: dict[K, int] = {}
    for n_others, key in zip(reversed(range(len(wanted))), sorted(wanted, key=wanted.__getitem__), strict=True):
        given[key] = min(wanted[key], -(-budget // (n_others + 1)))
        budget -= given[key]
    return given


def portions(prompts: Sequence[Prompt], budget: int) -> list[int]:
    """Tokens of each of `prompts`, the oldest first, in a step that has `budget` for all of them.

    Of a client's share the oldest has all that it takes, but half where another is much shorter.
    """
    by_client: dict[str, list[int]] = {}
    for at, prompt in enumerate(prompts):
        by_client.setdefault(prompt.client, []).append(at)
    given = shares({client: sum(prompts[at].most for at in own) for client, own in by_client.items()}, budget)
    sizes = [0] * len(prompts)
    for client, own in by_client.items():
        left, order = given[client], own
        shortest = min(own, key=lambda at: prompts[at].n_left)
        if prompts[shortest].n_left * MUCH_SHORTER <= prompts[own[0]].n_left:
            of_others = sum(prompts[at].most for at in own if at != shortest)
            sizes[shortest] = shares({True: prompts[shortest].most, False: of_others}, left)[True]
            left, order = left - sizes[shortest], [at for at in own if at != shortest]
        for at in order:
            sizes[at] = min(prompts[at].most, left)
            left -= sizes[at]
    return sizes
