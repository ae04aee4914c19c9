"""Continuous batching as pure state: who runs, in which slot, and what the next step computes.

Decoding requests go first, each with the token drawn last and those that its grammar forces. The rest of the step's
token budget goes to prompts, in chunks, by client (`runtime/fair_share.py`). Requests with different LoRA adapters take
turns, where an engine computes with one set of them at a time, and share no cache. This module knows no engine, text or
clock: `runtime/loop.py` carries out its plans.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgellm.contract.engine import EngineInfo, SlotInput
from edgellm.errors import Overloaded
from edgellm.runtime.fair_share import Prompt, portions
from edgellm.runtime.request_state import RequestState
from edgellm.types.adapter import AdapterSet

# What prompts, and grammars that leave no choice, add to a step beside running answers is kept short, so that they are
# not held up for a whole batch: so many tokens, or as many as take so long, but enough to be worth a step.
BUSY_CHUNK, LEAST_CHUNK = 256, 16
BUSY_S = 0.25
# What requests with the same adapters have before others get theirs: so many steps, or fewer where they take long. A
# change of adapters costs llama.cpp a third of a step of a small model, as it plans its buffers anew.
TURN_STEPS = 32
TURN_S, SHORT_TURN_STEPS = 0.5, 8
# Tokens that an answer has in a slot before it gives that to another client; or as many as it had before, so
# that less is read again than is drawn. One of a client that has more slots than the other does so after an eighth.
QUANTUM, EXCESS_PART = 256, 8
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


@dataclass(frozen=True, slots=True)
class Admission:
    """Give `request` its slot with the first `n_keep` tokens, copied from `source` where that is another slot."""

    request: RequestState
    slot: int
    source: int
    n_keep: int
    n_own: int  # tokens of the prefix that the same client has in a slot


@dataclass(frozen=True, slots=True)
class Step:
    """One batch: entries, and for each entry its request, in the same order."""

    batch: tuple[SlotInput, ...]
    requests: tuple[RequestState, ...]


class Scheduler:
    """The slots, and the queue of requests that wait for one."""

    def __init__(self, info: EngineInfo, max_waiting: int = 1024) -> None:
        self._info = info
        self._max_waiting = max_waiting
        self.slots = [Slot() for _ in range(info.n_slots)]
        self.waiting: deque[RequestState] = deque()
        self.running: list[RequestState] = []  # in order of admission
        self._clock = 0
        self._turn = Turn()
        self._chunk = BUSY_CHUNK
        self._short_s = 0.0  # what the last step without a prompt took
        self._served: dict[AdapterSet, int] = {}  # step number of the last turn, or of arrival before the first

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
        free = [index for index, slot in enumerate(self.slots) if slot.request is None]
        # No more run than a step has tokens, so that each answer gets on in every step.
        if not self.waiting or not free or len(self.running) >= self._info.max_batch_tokens:
            return None
        request = self._next_waiting(len(free))
        if request is None:
            return None
        self.waiting.remove(request)
        # One token at least must be computed, or there are no logits to sample from.
        limit = 0 if request.computes_prompt else len(request.prompt) - (not request.next_tokens)
        common = [
            min(common_prefix(slot.tokens, request.prompt), limit) if slot.adapters == request.adapters else 0
            for slot in self.slots
        ]
        spare = min(free, key=lambda index: (self._passes_with(index), self.slots[index].used))
        # Longest prefix first; among equals the slot unused for longest.
        best = max(free, key=lambda index: (common[index], -self.slots[index].used))
        if common[best] * 2 < len(self.slots[best].tokens):
            # Most of another conversation would be lost for a beginning that all have, such as BOS or a system prompt.
            best = spare
        source = max(range(len(common)), key=lambda index: common[index])
        needed = MIN_FORK_TOKENS if self._info.fork_copies else MIN_FORK_TOKENS_SHARED
        if request.choice:
            needed = 1  # its prompt is never read twice where it need not be
        if common[source] < common[best] + needed:
            source = best
        else:
            # The copy overwrites its target: take the slot that loses least, not the one with the best prefix.
            best = spare
        own = [n for n, slot in zip(common, self.slots, strict=True) if slot.client == request.generation.client]
        return Admission(request, best, source, common[source], max(own, default=0))

    def _next_waiting(self, n_free: int) -> RequestState | None:
        """Of the client that has the fewest slots, the first that came."""
        held = Counter(request.generation.client for request in self.running)
        ready = [request for request in self.waiting if request.ready and (n_free > 1 or not self._can_wait(request))]
        return min(ready, key=lambda request: held[request.generation.client], default=None)

    def _can_wait(self, request: RequestState) -> bool:
        """Whether its prompt is long, and would be read no sooner for a slot: others of its client fill the steps."""
        own = [other for other in self.running if other.generation.client == request.generation.client]
        if request.next_tokens or sum(other.n_left for other in own) < self._info.max_batch_tokens:
            return False
        held = max(common_prefix(slot.tokens, request.prompt) for slot in self.slots)
        return len(request.prompt) - held > BUSY_CHUNK

    def gives_way(self) -> RequestState | None:
        """The answer whose slot another client should have; None where none is due, or a slot is free.

        It must be paused, and then `admit` gives the slot to who waits.
        """
        has_free = any(slot.request is None for slot in self.slots)
        if not self.waiting or (has_free and len(self.running) < self._info.max_batch_tokens):
            return None
        request = self._next_waiting(1)
        if request is None:
            return None
        held = Counter(other.generation.client for other in self.running)
        of_client = held[request.generation.client]

        def is_due(other: RequestState) -> bool:
            n_more, n_since = held[other.generation.client] - of_client, other.n_generated - other.n_before
            quantum = max(QUANTUM, other.n_before)
            return n_more > 0 and n_since >= (quantum if n_more == 1 else quantum // EXCESS_PART)

        due = filter(is_due, self.running)
        return max(due, key=lambda o: (held[o.generation.client], o.n_generated - o.n_before), default=None)

    def pause(self, request: RequestState, now: float = 0.0) -> None:
        """Take its slot from an answer, which waits then as one that comes now. `now`: as in `RequestState`."""
        slot, heir = self.slots[request.slot], self._next_waiting(1)
        if heir is not None:  # its client has no more slots than any other now, but others may have come before it
            self.waiting.remove(heir)
            self.waiting.appendleft(heir)
        self.running.remove(request)
        slot.request = None
        request.pause(slot.tokens, now)
        self.waiting.append(request)

    def _passes_with(self, index: int) -> int:
        """Unbroken rows of slots in use if `index` were too.

        An engine whose cache is one block by slot (llama.cpp's streams) computes each row in a pass of its own, and
        each pass reads all weights.
        """
        used = {request.slot for request in self.running} | {index}
        return sum(slot - 1 not in used for slot in used)

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
        self._served.setdefault(request.adapters, self._clock)

    def _next(self) -> list[RequestState]:
        """Those of the next step, in order of admission."""
        sets = list(dict.fromkeys(request.adapters for request in self.running))
        if self._info.mixes_adapters or len(sets) < 2:
            return self.running
        turn = self._turn
        goes_on = turn.adapters in sets and not turn.is_over
        adapters = turn.adapters if goes_on else min(sets, key=lambda adapters: self._served[adapters])
        return [request for request in self.running if request.adapters == adapters]

    def plan(self) -> Step:
        """The next batch; empty where nothing runs. Changes nothing."""
        budget = self._info.max_batch_tokens
        batch: list[SlotInput] = []
        owners: list[RequestState] = []
        running = self._next()
        decoding = [request for request in running if request.decoding]
        if len(self.running) > 1 and (any(request.decoding for request in self.running) or self._draws_soon(running)):
            budget = min(budget, len(decoding) + self._chunk)
        for n_others, request in zip(reversed(range(len(decoding))), decoding, strict=True):
            # One token at least is left for each of the others.
            tokens = request.next_tokens[: budget - n_others]
            n_past = len(self.slots[request.slot].tokens)
            n_logits = int(len(tokens) == len(request.next_tokens))
            batch.append(SlotInput(request.slot, n_past, tokens, n_logits, request.adapters))
            owners.append(request)
            budget -= len(tokens)
        reading = [request for request in running if not request.decoding]
        for request, size in zip(reading, self._portions(reading, budget, len(running)), strict=True):
            if size > 0:
                start = request.n_prefilled
                chunk = tuple(request.prompt[start : start + size])
                # A choice that has its first token already, and whose slot was lost, has no use for logits.
                draws = start + len(chunk) == len(request.prompt) and not request.next_tokens
                n_logits = len(chunk) if request.tells_prompt else int(draws)
                batch.append(SlotInput(request.slot, start, chunk, n_logits, request.adapters))
                owners.append(request)
        # In order of slots: neighbours can be computed in one pass (see _passes_with).
        order = sorted(range(len(batch)), key=lambda at: batch[at].slot)
        return Step(tuple(batch[at] for at in order), tuple(owners[at] for at in order))

    def _draws_soon(self, running: Sequence[RequestState]) -> bool:
        """Whether a client begins to be answered while another's prompt is read."""
        left: dict[str, int] = {}
        for request in running:
            left[request.generation.client] = left.get(request.generation.client, 0) + request.n_left
        return len(left) > 1 and min(left.values()) * len(left) <= BUSY_CHUNK

    def _portions(self, reading: Sequence[RequestState], budget: int, n_running: int) -> list[int]:
        """Tokens of each prompt in the next step, which has `budget` for them."""
        tells = [at for at, request in enumerate(reading) if request.tells_prompt]
        # Each has a row at least; the others are shared as tokens are.
        spare_rows = self._info.max_logits - n_running
        prompts = [Prompt(request.generation.client, request.n_left, request.next_chunk) for request in reading]
        rows = portions([prompts[at] for at in tells], spare_rows)
        for at, n_rows in zip(tells, rows, strict=True):
            prompts[at] = prompts[at]._replace(most=min(prompts[at].most, 1 + n_rows))
        return portions(prompts, budget)

    def advance(self, step: Step, seconds: float = 0.0) -> list[RequestState]:
        """Record what the caches hold after the step, which took `seconds`.

        Returns:
            The requests that have logits, in order.
        """
        if not step.batch:
            return []
        self._clock += 1
        self._turn = self._turn.after(step, seconds)
        self._chunk = self._chunk_after(step, seconds)
        sets = {request.adapters for request in self.running}
        self._served = {adapters: at for adapters, at in self._served.items() if adapters in sets}
        self._served[self._turn.adapters] = self._clock
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

    def _chunk_after(self, step: Step, seconds: float) -> int:
        """By what a prompt added to this step. Where the step itself takes long, as threads wait, less is no faster."""
        pairs = zip(step.batch, step.requests, strict=True)
        n_tokens = sum(len(entry.tokens) for entry, request in pairs if not request.decoding)
        if not n_tokens:
            self._short_s = seconds
        if n_tokens < LEAST_CHUNK:
            return self._chunk
        more_s = seconds - self._short_s
        fits = BUSY_CHUNK if more_s <= 0 else int(n_tokens * BUSY_S / more_s)
        return max(LEAST_CHUNK, min(fits, 2 * self._chunk, BUSY_CHUNK))

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
