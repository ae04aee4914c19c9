"""How much prompts, and grammars that leave no choice, add to a step beside running answers: these wait for it."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.runtime.request_state import RequestState
from edgellm.runtime.step import Step

# So many tokens, or as many as take so long, but enough to be worth a step.
BUSY_CHUNK, LEAST_CHUNK = 256, 16
BUSY_S = 0.25


def is_busy(running: Sequence[RequestState], stepping: Sequence[RequestState]) -> bool:
    """Whether somebody waits for a step of `stepping`, who are those of `running` that it computes."""
    return len(running) > 1 and (any(request.decoding for request in running) or _draws_soon(stepping))


def _draws_soon(stepping: Sequence[RequestState]) -> bool:
    """Whether a client begins to be answered while another's prompt is read."""
    left: dict[str, int] = {}
    for request in stepping:
        left[request.generation.client] = left.get(request.generation.client, 0) + request.n_left
    return len(left) > 1 and min(left.values()) * len(left) <= BUSY_CHUNK


class BusyChunk:
    """What a busy step has for prompts, by what they added to the steps before it."""

    def __init__(self) -> None:
        self.n_tokens = BUSY_CHUNK
        self._short_s = 0.0  # what the last step without a prompt took

    def learn(self, step: Step, seconds: float) -> None:
        """Of a step that took so long, whose requests are as it was planned with.

        Where the step itself takes long, as threads wait, less is no faster.
        """
        pairs = zip(step.batch, step.requests, strict=True)
        n_read = sum(len(entry.tokens) for entry, request in pairs if not request.decoding)
        if not n_read:
            self._short_s = seconds
        if n_read < LEAST_CHUNK:
            return
        more_s = seconds - self._short_s
        fits = BUSY_CHUNK if more_s <= 0 else int(n_read * BUSY_S / more_s)
        self.n_tokens = max(LEAST_CHUNK, min(fits, 2 * self.n_tokens, BUSY_CHUNK))
