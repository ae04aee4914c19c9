"""Continuous batching as pure state: who runs, in which slot, and what the next step computes.

Decoding requests go first, each with the token drawn last and those that its grammar forces. The rest of the step's
token budget goes to prompts, in chunks, by client. The rules have a module each: `slots` (which slot has the prefix),
`slot_share` (whose turn it is to have one), `adapter_turns`, `busy_step` (whose step it is, and how much prompts add)
and `step` (what it holds). None of them knows an engine, text or clock: `runtime/loop.py` carries out what is planned.
"""

from __future__ import annotations

from collections import deque

from edgellm.contract.engine import EngineInfo
from edgellm.errors import Overloaded
from edgellm.runtime import slot_share
from edgellm.runtime.adapter_turns import AdapterTurns
from edgellm.runtime.busy_step import BusySteps
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.slots import Admission, Slot, place
from edgellm.runtime.step import Step, step_of


class Scheduler:
    """The slots, and the queue of requests that wait for one."""

    def __init__(self, info: EngineInfo, max_waiting: int = 1024) -> None:
        self._info = info
        self._max_waiting = max_waiting
        self.slots = [Slot() for _ in range(info.n_slots)]
        self.waiting: deque[RequestState] = deque()
        self.running: list[RequestState] = []  # in order of admission
        self._clock = 0  # steps so far
        self._turns = AdapterTurns(mixes=info.mixes_adapters)
        self._busy = BusySteps(info.max_batch_tokens)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def submit(self, *choices: RequestState) -> None:
        """Queue the choices of a request, all of them or none.

        Raises:
            Overloaded: the queue is full.
        """
        if len(self.waiting) + len(choices) > self._max_waiting:
            raise Overloaded(f"{len(self.waiting)} answers are waiting already", hint="try again later")
        self.waiting.extend(choices)

    def release(self, request: RequestState, *, keep_cache: bool = True) -> None:
        """Remove a request, wherever it is. Its slot keeps the tokens for a later request with the same prefix."""
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.running:
            self.running.remove(request)
            slot = self.slots[request.slot]
            slot.request = None
            if not keep_cache:
                slot.tokens = []

    def forget(self, index: int) -> RequestState | None:
        """The engine lost what this slot held. Returns the request that ran in it, which must be released."""
        slot = self.slots[index]
        slot.tokens = []
        return slot.request

    def forget_adapter(self, name: str) -> list[int]:
        """What slots hold of it is of no use to an adapter that gets its name later. Returns these slots."""
        held = [index for index, slot in enumerate(self.slots) if any(name == other for other, _ in slot.adapters)]
        for index in held:
            self.slots[index].tokens = []
        return held

    def uses(self, name: str) -> bool:
        """Whether a request runs or waits that is answered with this adapter."""
        return any(name == other for request in (*self.running, *self.waiting) for other, _ in request.adapters)

    def admit(self) -> Admission | None:
        """The next request that can have a slot, None where nobody waits or no slot is free.

        Further choices wait until the first has read the prompt; meanwhile others pass them.
        """
        n_free = self._n_free
        request = self._next_waiting(n_free) if self.waiting and n_free else None
        if request is None:
            return None
        self.waiting.remove(request)
        return place(request, self.slots, fork_copies=self._info.fork_copies)

    def admitted(self, admission: Admission, n_kept: int) -> None:
        """Record that the slot holds `n_kept` tokens of the prefix: an engine may be unable to rewind to all of it."""
        request, slot = admission.request, self.slots[admission.slot]
        slot.client = request.generation.client
        slot.tokens, slot.adapters = request.prompt[:n_kept], request.adapters
        slot.request = request
        request.slot = admission.slot
        request.n_prefilled, request.n_before = n_kept, request.n_generated
        if not request.paused:
            request.n_cached, request.n_told_cached = n_kept, min(n_kept, admission.n_own)
        self.running.append(request)
        self._turns.arrive(request, self._clock)

    def gives_way(self) -> RequestState | None:
        """Whose slot another client should have; None where nobody's is due, or a slot is free.

        It must be paused, and then `admit` gives the slot to who waits.
        """
        request = self._next_waiting(1) if self.waiting and not self._n_free else None
        if request is None:
            return None
        return slot_share.gives_way(self.running, self._turns.stepping(self.running), request)

    def pause(self, request: RequestState, now: float = 0.0) -> None:
        """Take its slot from it. An answer waits then as one that comes now, and a prompt that was being read as its
        client's next. `now`: as in `RequestState`.
        """
        slot, waiting = self.slots[request.slot], self._next_waiting(1)
        if waiting is not None:  # its client has no more slots than any other now, but others may have come before it
            self.waiting.remove(waiting)
            self.waiting.appendleft(waiting)
        self.running.remove(request)
        slot.request = None
        own = [at for at, other in enumerate(self.waiting) if other.generation.client == request.generation.client]
        self.waiting.insert(own[0] if own and request.n_left else len(self.waiting), request)
        request.pause(slot.tokens, now)

    @property
    def _n_free(self) -> int:
        """Slots to give. No more run than a step has tokens, so that each answer gets on in every step."""
        if len(self.running) >= self._info.max_batch_tokens:
            return 0
        return sum(slot.request is None for slot in self.slots)

    def _next_waiting(self, n_free: int) -> RequestState | None:
        """Who gets a slot next, of so many that are free or become so."""
        ready = [request for request in self.waiting if request.ready and (n_free > 1 or not self._can_wait(request))]
        return slot_share.next_waiting(ready, self.running)

    def _can_wait(self, request: RequestState) -> bool:
        return slot_share.can_wait(request, self.running, self.slots, self._info.max_batch_tokens)

    def plan(self) -> Step:
        """The next batch; empty where nothing runs. Changes nothing."""
        stepping = self._busy.turn(self.running, self._turns.stepping(self.running))
        budget = self._info.max_batch_tokens
        n_tokens = self._busy.n_tokens(self.running, stepping)
        if n_tokens is not None:
            budget = min(budget, sum(request.decoding for request in stepping) + n_tokens)
        return step_of(stepping, self.slots, budget, self._info.max_logits)

    def advance(self, step: Step, seconds: float = 0.0) -> list[RequestState]:
        """Record what the caches hold after the step, which took `seconds`.

        Returns:
            The requests that have logits, in order.
        """
        if not step.batch:
            return []
        self._clock += 1
        self._turns.advance(step, seconds, self.running, self._clock)
        self._busy.learn(step, seconds, self.running)
        ready = []
        for entry, request in zip(step.batch, step.requests, strict=True):
            slot = self.slots[entry.slot]
            slot.tokens.extend(entry.tokens)
            slot.used = self._clock
            if request.decoding:
                request.next_tokens = request.next_tokens[len(entry.tokens) :]
            else:
                request.n_prefilled += len(entry.tokens)
            if entry.n_logits:
                ready.append(request)
        return ready

    def room(self, request: RequestState) -> int:
        """Tokens that the request's slot can still take; before it has one, after its prompt."""
        n_held = len(self.slots[request.slot].tokens) if request.slot >= 0 else len(request.prompt)
        return self._info.n_ctx - n_held

    def violations(self) -> list[str]:
        """Every broken invariant, in words; empty where there is none. For tests."""
        violations = []
        for index, slot in enumerate(self.slots):
            if len(slot.tokens) > self._info.n_ctx:
                violations.append(f"slot {index} holds {len(slot.tokens)} of {self._info.n_ctx} tokens")
            if slot.request is not None and slot.request.slot != index:
                violations.append(
                    f"slot {index} belongs to request {slot.request.id}, which thinks it has {slot.request.slot}"
                )
            if slot.request is not None and slot.request not in self.running:
                violations.append(f"slot {index} belongs to request {slot.request.id}, which does not run")
        for request in self.running:
            if self.slots[request.slot].adapters != request.adapters:
                violations.append(f"slot {request.slot} was computed with other adapters than request {request.id}")
            if self.slots[request.slot].request is not request:
                violations.append(f"request {request.id} runs without a slot")
            elif self.slots[request.slot].tokens[: request.n_prefilled] != request.prompt[: request.n_prefilled]:
                violations.append(f"slot {request.slot} does not begin as the prompt of request {request.id}")
            if request in self.waiting:
                violations.append(f"request {request.id} runs and waits")
            if request.choice and not request.next_tokens:
                violations.append(f"choice {request.choice} of request {request.id} reads the prompt for itself")
        seated = [request for request in self.waiting if request.slot >= 0]
        return violations + [f"request {request.id} waits with slot {request.slot}" for request in seated]
