"""Requests with different LoRA adapters take turns, where an engine computes with one set of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.runtime.busy_step import BUSY_CHUNK
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.step import Step
from edgellm.types.adapter import AdapterSet

# What requests with the same adapters have before others get theirs: so many steps, or fewer where they take long. A
# change of adapters costs llama.cpp a third of a step of a small model, as it plans its buffers anew.
TURN_STEPS = 32
TURN_S, SHORT_TURN_STEPS = 0.5, 8


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose steps these are, and what they had of them."""

    adapters: AdapterSet = ()
    n_steps: int = 0
    n_tokens: int = 0
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        is_long = self.n_steps >= SHORT_TURN_STEPS and self.seconds >= TURN_S
        return is_long or self.n_steps >= TURN_STEPS or self.n_tokens >= BUSY_CHUNK

    def after(self, step: Step, seconds: float) -> Turn:
        adapters, n_tokens = step.batch[0].adapters, sum(len(entry.tokens) for entry in step.batch)
        if adapters != self.adapters or self.is_over:
            return Turn(adapters, 1, n_tokens, seconds)
        return Turn(adapters, self.n_steps + 1, self.n_tokens + n_tokens, self.seconds + seconds)


class AdapterTurns:
    """Of one engine. The next turn is of the client that was served longest ago, however many sets it has, and of its
    sets of the one that was. `mixes`: the engine has no turns, as its steps may hold different sets.
    """

    def __init__(self, *, mixes: bool) -> None:
        self._mixes = mixes
        self._turn = Turn()
        # The number of the last step that it had, or of its arrival before the first.
        self._clients: dict[str, int] = {}
        self._sets: dict[AdapterSet, int] = {}

    def arrive(self, request: RequestState, clock: int) -> None:
        """It runs from now on. `clock`: the number of the last step."""
        self._clients.setdefault(_client(request), clock - 1)  # before the client that had this step
        self._sets.setdefault(request.adapters, clock)

    def stepping(self, running: Sequence[RequestState]) -> Sequence[RequestState]:
        """Those of the next step, in the same order."""
        sets = {request.adapters for request in running}
        if self._mixes or len(sets) < 2:
            return running
        goes_on = self._turn.adapters in sets and not self._turn.is_over
        adapters = self._turn.adapters if goes_on else min(running, key=self._served).adapters
        return [request for request in running if request.adapters == adapters]

    def advance(self, step: Step, seconds: float, running: Sequence[RequestState], clock: int) -> None:
        """The step with the number `clock` took so long. It counts for all clients that share its set."""
        self._turn = self._turn.after(step, seconds)
        served = [request for request in running if request.adapters == self._turn.adapters]
        clients, sets = {_client(request) for request in running}, {request.adapters for request in running}
        self._clients = {client: at for client, at in self._clients.items() if client in clients}
        self._clients |= dict.fromkeys(map(_client, served), clock)
        self._sets = {adapters: at for adapters, at in self._sets.items() if adapters in sets}
        self._sets[self._turn.adapters] = clock

    def _served(self, request: RequestState) -> tuple[int, int]:
        return self._clients[_client(request)], self._sets[request.adapters]


def _client(request: RequestState) -> str:
    return request.generation.client
