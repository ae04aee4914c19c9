"""How much prompts, and grammars that leave no choice, add to a step for which others wait, or may wait soon."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.runtime.request_state import RequestState
from edgellm.runtime.step import Step

# So many tokens, or as many as take so long, but enough to be worth a step.
BUSY_CHUNK, LEAST_CHUNK = 256, 16
BUSY_S = 0.25
# And so many where nobody is being answered: llama.cpp computes attention of 64 rows and more in tiles, so that fewer
# take as long.
SHARED_CHUNK = 64
# Nothing breaks off a step, so a client that comes waits for the one at hand. Steps stay short therefore for a client
# that is alone again, until it has had so many seconds of them.
SHARED_S = 600.0
# A client that comes is so far ahead of the others, until it has used that up: a short prompt is read at once,
# however many clients have long ones, and these wait no longer than this.
AHEAD_S = 10.0


class BusySteps:
    """Whose prompts the next step reads, and how much of them, by what they added to the steps before it."""

    def __init__(self, max_batch_tokens: int) -> None:
        self._most = max(max_batch_tokens, BUSY_CHUNK)
        self._fits = self._most  # tokens that take BUSY_S
        self._short_s = 0.0  # what the last step without a prompt took
        self._now_s = 0.0  # what all steps took
        self._due: dict[str, float] = {}  # by client that runs: when its turn is
        self._client: str | None = None  # of the last step, or of one of its requests
        self._shared_s = 0.0  # of SHARED_S, what is left

    def turn(self, running: Sequence[RequestState], stepping: Sequence[RequestState]) -> Sequence[RequestState]:
        """Of `stepping`, whom the next step computes: where nobody is being answered and steps are slow, one client.

        A part of a long prompt takes many times as long as one of a short prompt, so clients have the same time.
        """
        if self._fits >= self._most or any(request.decoding for request in running):
            return stepping
        clients = dict.fromkeys(request.generation.client for request in stepping)
        first = min(clients, key=self._due_of, default=None)
        return [request for request in stepping if request.generation.client == first]

    def n_tokens(self, running: Sequence[RequestState], stepping: Sequence[RequestState]) -> int | None:
        """For prompts, beside the tokens of answers; None = as many as the step takes. `stepping`: those of `running`
        that it computes."""
        is_busy = any(request.decoding for request in running) or _draws_soon(stepping)
        if len(running) > 1 and is_busy:
            return min(self._fits, BUSY_CHUNK)
        return max(self._fits, SHARED_CHUNK) if self._is_shared(running) else None

    def _is_shared(self, running: Sequence[RequestState]) -> bool:
        clients = _clients(running)
        if self._client is not None:
            clients.add(self._client)
        return len(clients) > 1 or self._shared_s > 0.0

    def learn(self, step: Step, seconds: float, running: Sequence[RequestState]) -> None:
        """Of a step that took so long, whose requests are as it was planned with."""
        self._learn_clients(_clients(step.requests), seconds, _clients(running))
        pairs = zip(step.batch, step.requests, strict=True)
        n_read = sum(len(entry.tokens) for entry, request in pairs if not request.decoding)
        if not n_read:
            self._short_s = seconds
        if n_read < LEAST_CHUNK:
            return
        # Where the step itself takes long, as threads wait, less is no faster.
        more_s = seconds - self._short_s
        fits = self._most if more_s <= 0 else int(n_read * BUSY_S / more_s)
        self._fits = max(LEAST_CHUNK, min(fits, 2 * self._fits, self._most))

    def _learn_clients(self, stepped: set[str], seconds: float, running: set[str]) -> None:
        """A client's turn is put off by what it had, times the clients that run. That of one that comes is counted
        from when it comes, so nobody starves."""
        is_other = self._client is not None and stepped != {self._client}
        self._shared_s = SHARED_S if is_other else max(0.0, self._shared_s - seconds)
        self._client = min(stepped)
        due = {client: self._due_of(client) for client in running}
        self._now_s += seconds
        for client in stepped:
            is_ahead = due[client] < self._now_s
            due[client] += seconds / len(stepped) * (len(running) + is_ahead)
        self._due = due

    def _due_of(self, client: str) -> float:
        return self._due.get(client, self._now_s - AHEAD_S)


def _clients(requests: Sequence[RequestState]) -> set[str]:
    return {request.generation.client for request in requests}


def _draws_soon(stepping: Sequence[RequestState]) -> bool:
    """Whether a client begins to be answered while another's prompt is read."""
    left: dict[str, int] = {}
    for request in stepping:
        left[request.generation.client] = left.get(request.generation.client, 0) + request.n_left
    return len(left) > 1 and min(left.values()) * len(left) <= BUSY_CHUNK
