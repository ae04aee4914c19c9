"""The scheduler alone: no engine, no text, no clock. What an engine's slots hold is kept beside it and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.refusals import refuses

from edgellm.contract.engine import EngineInfo
from edgellm.errors import Overloaded
from edgellm.runtime.adapter_turns import SHORT_TURN_STEPS, TURN_S, TURN_STEPS
from edgellm.runtime.busy_step import BUSY_CHUNK, LEAST_CHUNK, SHARED_CHUNK, SHARED_S
from edgellm.runtime.request_state import CONTINUED_CHUNK, RequestState
from edgellm.runtime.scheduler import Scheduler
from edgellm.runtime.slot_share import AWAY_PART, EXCESS_PART, QUANTUM, gives_way
from edgellm.runtime.slots import MIN_FORK_TOKENS, MIN_FORK_TOKENS_SHARED, Admission, common_prefix
from edgellm.runtime.step import Step
from edgellm.types.request import GenerationRequest

INFO = EngineInfo(
    n_slots=3, n_ctx=4096, max_batch_tokens=512, max_logits=3, vocab_size=100, eos_ids=frozenset(), fork_copies=True
)


class Table:
    """A scheduler, and the cache of an engine that does as it is told. Answers are the numbers 1000, 1001, ..."""

    def __init__(self, info: EngineInfo = INFO, *, rewinds: bool = True, **kind: int) -> None:
        self.info = info
        self.rewinds = rewinds
        self.scheduler = Scheduler(info, **kind)
        self.cache: list[list[int]] = [[] for _ in range(info.n_slots)]
        self.n_submitted = 0
        self.choices: dict[int, list[RequestState]] = {}  # by request
        self.seconds: Callable[[Step], float] = lambda step: 0.0  # that a step takes

    def submit(self, prompt: Sequence[int], n: int = 1, client: str = "", **asked: Any) -> RequestState:
        """The first of `n` choices."""
        self.n_submitted += 1
        generation = GenerationRequest("", client=client, **asked)
        choices = [
            RequestState(self.n_submitted, generation, list(prompt), limit=1000, choice=choice) for choice in range(n)
        ]
        self.scheduler.submit(*choices)
        self.choices[self.n_submitted] = choices
        return choices[0]

    def admit(self) -> list[Admission]:
        found = []
        while (admission := self.scheduler.admit()) is not None:
            given = self.cache[admission.source]
            exact = self.rewinds or admission.n_keep == len(given)
            self.cache[admission.slot] = given[: admission.n_keep if exact else 0]
            self.scheduler.admitted(admission, len(self.cache[admission.slot]))
            found.append(admission)
        return found

    def step(self) -> Step:
        """Plan, compute, and sample for each request that has logits."""
        step = self.scheduler.plan()
        for entry in step.batch:
            assert entry.n_past == len(self.cache[entry.slot])
            self.cache[entry.slot].extend(entry.tokens)
        for request in self.scheduler.advance(step, self.seconds(step)):
            request.n_generated += 1
            if request.n_generated == 1:
                for choice in self.choices[request.id]:
                    choice.n_generated, choice.next_tokens = 1, (999,)
            if self.scheduler.room(request) > 0:
                request.next_tokens = (1000 + self.scheduler.room(request),)
            else:
                self.scheduler.release(request)
        return step

    def run(self, request: RequestState, n_tokens: int = 1) -> None:
        """Until `n_tokens` were sampled; then it is released."""
        n = 0
        while n < n_tokens:
            self.admit()
            step = self.step()
            n += sum(e.n_logits for s, e in zip(step.requests, step.batch, strict=True) if s is request)
        self.scheduler.release(request)


def prompt(n: int, kind: int = 0) -> list[int]:
    """`n` tokens; two of different kinds differ from the first on."""
    return [kind * 10_000 + i for i in range(n)]


def test_decoding_goes_first_and_prompts_share_what_is_left() -> None:
    table = Table(replace(INFO, max_batch_tokens=64))
    first = table.submit(prompt(10, 1))
    table.admit()
    table.step()
    assert first.decoding
    table.submit(prompt(40, 2))
    table.submit(prompt(100, 3))
    table.admit()
    step = table.step()
    assert [len(entry.tokens) for entry in step.batch] == [1, 40, 23]
    assert [entry.n_logits for entry in step.batch] == [1, 1, 0]
    step = table.step()
    assert [len(entry.tokens) for entry in step.batch] == [1, 1, 62]
    step = table.step()
    assert [len(entry.tokens) for entry in step.batch] == [1, 1, 15]
    assert [entry.n_logits for entry in step.batch] == [1, 1, 1]


def test_a_prompt_alone_uses_the_whole_batch_and_beside_answers_a_short_chunk() -> None:
    table = Table()
    table.submit(prompt(1200, 1))
    table.admit()
    assert [len(e.tokens) for e in table.step().batch] == [512]
    assert [len(e.tokens) for e in table.step().batch] == [512]
    assert [(len(e.tokens), e.n_logits) for e in table.step().batch] == [(176, 1)]
    table.submit(prompt(600, 2))
    table.admit()
    assert [len(e.tokens) for e in table.step().batch] == [1, BUSY_CHUNK]
    assert [len(e.tokens) for e in table.step().batch] == [1, BUSY_CHUNK]
    assert [len(e.tokens) for e in table.step().batch] == [1, 600 - 2 * BUSY_CHUNK]


def beside_an_answer(seconds: Callable[[Step], float]) -> list[int]:
    """Sizes of the parts of a prompt of 900 tokens."""
    table = Table()
    table.seconds = seconds
    table.submit(prompt(10, 1))
    table.admit()
    table.step()
    table.step()
    table.submit(prompt(900, 2))
    table.admit()
    sizes = []
    while sum(sizes) < 900:
        sizes.append(max(len(entry.tokens) for entry in table.step().batch))
    return sizes


def test_where_prompts_take_long_their_parts_get_shorter() -> None:
    """At 200 tokens/s, 50 of them add a quarter of a second."""
    first, *rest, last = beside_an_answer(lambda step: sum(len(entry.tokens) for entry in step.batch) / 200)
    assert first == BUSY_CHUNK
    assert {50, 51} >= set(rest)
    assert last <= 51


def test_parts_are_worth_a_step() -> None:
    sizes = beside_an_answer(lambda step: 10.0 if len(step.batch) > 1 else 0.1)
    assert sizes[1:-1] == [LEAST_CHUNK] * len(sizes[1:-1])


def test_where_each_step_takes_long_shorter_parts_would_not_help() -> None:
    assert beside_an_answer(lambda step: 3.0) == [BUSY_CHUNK, BUSY_CHUNK, BUSY_CHUNK, 900 - 3 * BUSY_CHUNK]


def test_parts_grow_again() -> None:
    slow = iter([0.1, 0.1, 4.0])
    sizes = beside_an_answer(lambda step: next(slow, 0.1))
    assert sizes == [256, 16, 32, 64, 128, 256, 148]


def test_what_a_grammar_forces_comes_in_short_parts_beside_others() -> None:
    table = Table()
    first, second = table.submit(prompt(10, 1)), table.submit(prompt(10, 2))
    table.admit()
    table.step()
    first.next_tokens = tuple(range(600))
    sizes = [[len(entry.tokens) for entry in table.step().batch] for _ in range(3)]
    assert sizes == [[BUSY_CHUNK + 1, 1], [BUSY_CHUNK + 1, 1], [600 - 2 * BUSY_CHUNK - 2, 1]]
    table.scheduler.release(second)
    first.next_tokens = tuple(range(600))
    assert [len(entry.tokens) for entry in table.step().batch] == [512]


FOUR = replace(INFO, n_slots=4, max_logits=4 + 31)


def read_in(step: Step) -> dict[int, int]:
    """Tokens by request."""
    return {request.id: len(entry.tokens) for request, entry in zip(step.requests, step.batch, strict=True)}


def test_prompts_are_read_in_equal_parts_by_client() -> None:
    """However many one of them sends; what one does not need the other has, and each reads its own in order."""
    table = Table(FOUR)
    long = [table.submit(prompt(3000, kind), client="a") for kind in (1, 2)]
    other = table.submit(prompt(1000, 3), client="b")
    table.admit()
    assert read_in(table.step()) == {long[0].id: 256, other.id: 256}
    while other.n_left > 232:
        table.step()
    assert read_in(table.step()) == {long[0].id: 280, other.id: 232}


def test_a_short_prompt_is_read_in_its_first_step_beside_long_ones_of_another_client() -> None:
    """In a short one, as it begins to be answered then."""
    table = Table(FOUR)
    long = [table.submit(prompt(3000, kind), client="a") for kind in (1, 2, 3)]
    table.admit()
    assert read_in(table.step()) == {long[0].id: 512}
    short = table.submit(prompt(40, 4), client="b")
    table.admit()
    assert read_in(table.step()) == {long[0].id: BUSY_CHUNK - 40, short.id: 40}
    assert short.decoding
    assert read_in(table.step()) == {long[0].id: BUSY_CHUNK, short.id: 1}


def slow_table() -> Table:
    """100 tokens a second."""
    table = Table(FOUR)
    table.seconds = lambda step: sum(len(entry.tokens) for entry in step.batch) / 100
    return table


def test_where_another_client_came_lately_long_prompts_are_read_in_short_steps() -> None:
    """Who comes back waits for the step at hand, and in the next one it is answered."""
    table = slow_table()
    first = table.submit(prompt(30, 1), client="b")
    table.admit()
    assert read_in(table.step()) == {first.id: 30}
    table.scheduler.release(first)
    long = [table.submit(prompt(3000, kind), client="a") for kind in (2, 3)]
    table.admit()
    assert [read_in(table.step()) for _ in range(3)] == [{long[0].id: SHARED_CHUNK}] * 3
    again = table.submit(prompt(40, 4), client="b")
    table.admit()
    assert read_in(table.step()) == {again.id: 40}
    assert again.decoding


def test_where_steps_are_slow_clients_have_the_same_time_each() -> None:
    """What is read of a long prompt takes longer than as much of a short one."""
    table = slow_table()
    table.seconds = lambda step: sum(len(e.tokens) * (3 if e.tokens[0] < 20_000 else 1) for e in step.batch) / 100
    long = [table.submit(prompt(3000, kind), client=client) for kind, client in ((1, "a"), (2, "b"))]
    table.admit()
    table.step()  # before it, nobody knows that they are slow
    n_read = Counter[int]()
    for _ in range(40):
        n_read.update(read_in(table.step()))
    assert n_read[long[1].id] == pytest.approx(3 * n_read[long[0].id], rel=0.2)


def test_a_short_prompt_passes_those_of_clients_that_had_more() -> None:
    """It is read as if it were alone."""
    table = slow_table()
    for kind in (1, 2):
        table.submit(prompt(3000, kind), client=f"client {kind}")
    table.admit()
    for _ in range(45):
        table.step()
    other = table.submit(prompt(300, 3), client="b")
    table.admit()
    sizes = [read_in(table.step()) for _ in range(5)]
    assert sizes == [{other.id: SHARED_CHUNK}] * 4 + [{other.id: 300 - 4 * SHARED_CHUNK}]


def test_clients_that_keep_coming_do_not_starve_a_long_prompt() -> None:
    table = slow_table()
    long = table.submit(prompt(3000, 1), client="a")
    table.admit()
    table.step()
    n_before = long.n_left
    for kind in range(2, 40):
        short = table.submit(prompt(50, kind), client=f"client {kind}")
        table.admit()
        while not short.decoding:
            table.step()
        table.scheduler.release(short)
    assert n_before - long.n_left >= 38 * 50 / 3


def test_a_client_that_was_alone_for_long_fills_slow_steps() -> None:
    """And so does one that never had another beside it."""
    table = slow_table()
    alone = table.submit(prompt(2000, 1), client="a")
    table.admit()
    assert [read_in(table.step()) for _ in range(3)] == [{alone.id: 512}] * 3
    table.scheduler.release(alone)
    table.seconds = lambda step: SHARED_S / 4
    other = table.submit(prompt(2000, 2), client="b")
    table.admit()
    sizes = [read_in(table.step())[other.id] for _ in range(6)]
    assert sizes == [SHARED_CHUNK] * 5 + [512]


def test_steps_that_are_fast_are_full_though_clients_share_them() -> None:
    table = Table(FOUR)
    table.seconds = lambda step: 0.1
    long = [table.submit(prompt(2000, kind), client=client) for kind, client in ((1, "a"), (2, "b"))]
    table.admit()
    assert [read_in(table.step()) for _ in range(3)] == [{long[0].id: 256, long[1].id: 256}] * 3


def test_a_much_shorter_prompt_of_the_same_client_passes() -> None:
    """The long one has half meanwhile, and those that are nearly as long wait."""
    table = Table(FOUR)
    long, alike, short = table.submit(prompt(2000, 1)), table.submit(prompt(800, 2)), table.submit(prompt(400, 3))
    table.admit()
    assert read_in(table.step()) == {long.id: 256, short.id: 256}
    assert read_in(table.step()) == {long.id: 368, short.id: 144}
    table.scheduler.release(short)
    assert read_in(table.step()) == {long.id: 512}
    assert alike.n_prefilled == 0


def test_a_client_alone_fills_every_step() -> None:
    table = Table(FOUR)
    for kind, n in enumerate((700, 30, 3000, 50, 900, 20)):
        table.submit(prompt(n, kind), client="a")
    sizes: list[int] = []
    while not table.scheduler.idle:
        table.admit()
        sizes.append(sum(read_in(table.step()).values()))
        for request in [request for request in table.scheduler.running if request.decoding]:
            table.scheduler.release(request)
    assert sizes == [512] * (4700 // 512) + [4700 % 512]


def test_the_last_slot_is_kept_from_a_client_whose_prompts_fill_the_steps() -> None:
    """Its next long prompt would be read no sooner. A short one has it, and others' have."""
    table = Table(FOUR)
    first, *_ = [table.submit(prompt(1000, kind), client="a") for kind in range(4)]
    assert len(table.admit()) == 3
    short = table.submit(prompt(200, 5), client="a")
    assert [admission.request for admission in table.admit()] == [short]
    table.scheduler.release(short)
    other = table.submit(prompt(1000, 6), client="b")
    assert [admission.request for admission in table.admit()] == [other]
    table.scheduler.release(other)
    assert table.admit() == []
    table.scheduler.release(first)
    assert len(table.admit()) == 1, "two are free then"


def test_what_the_cache_has_of_a_prompt_is_not_long() -> None:
    table = Table(FOUR)
    table.run(table.submit(prompt(1000, 9), client="a"))
    for kind in range(3):
        table.submit(prompt(1000, kind), client="a")
    assert len(table.admit()) == 3
    again = table.submit([*prompt(1000, 9), *prompt(100, 8)], client="a")
    assert [admission.request for admission in table.admit()] == [again]


def test_free_slots_go_to_the_client_that_has_fewest() -> None:
    table = Table(FOUR)
    first = [table.submit(prompt(20, kind), client="a") for kind in range(6)]
    table.admit()
    others = [table.submit(prompt(20, 7), client="b"), table.submit(prompt(20, 8), client="c")]
    for request in first[:3]:
        table.scheduler.release(request)
    assert [admission.request for admission in table.admit()] == [*others, first[4]]


def paused(table: Table) -> list[RequestState]:
    """The answers that give way now, once others have their slots."""
    found = []
    table.admit()
    while (answer := table.scheduler.gives_way()) is not None:
        table.scheduler.pause(answer)
        table.admit()
        found.append(answer)
    return found


def test_who_holds_all_slots_gives_one_to_another_client() -> None:
    """Soon, as it has others; and then not again."""
    table = Table()
    held = [table.submit(prompt(20, kind), client="a") for kind in range(4)]
    table.admit()
    other = table.submit(prompt(20, 5), client="b")
    for n in range(QUANTUM // EXCESS_PART - 1):
        table.step()
        assert paused(table) == [], n
    table.step()
    table.step()
    assert paused(table) == held[2:3]
    assert other.slot == 2
    for _ in range(QUANTUM * 2):
        table.step()
        assert paused(table) == []
    table.scheduler.release(other)
    table.admit()
    assert (held[3].slot, held[2].slot) == (2, -1), "who came first is first"


@pytest.mark.parametrize("seconds", [0.0, TURN_S / 25, TURN_S], ids=["fast", "between", "slow"])
def test_who_holds_all_slots_with_as_many_adapters_gives_one_after_a_turn(seconds: float) -> None:
    """Else each set would come to the tokens of an answer that gives way only after turns of all the others."""
    table = Table()
    held = [table.submit(prompt(20, kind), client="a", adapters=(("one", 1 + kind / 10),)) for kind in range(4)]
    table.admit()
    table.seconds = lambda step: seconds
    while not held[2].decoding:
        table.step()
    for answer in held:
        answer.n_before = answer.n_generated
    other = table.submit(prompt(20, 5), client="b")
    n_steps = 1  # the turn of the third has begun
    while not (found := paused(table)):
        table.step()
        n_steps += 1
    assert found == held[2:3]
    assert n_steps == {0.0: TURN_STEPS, TURN_S / 25: 25, TURN_S: SHORT_TURN_STEPS}[seconds]
    assert table.step().requests == (other,)


def test_an_answer_whose_adapters_wait_gives_its_slot_soon_only_where_others_would_have_their_turn() -> None:
    """To one with the same adapters it would be of no more use now, and is kept for an eighth of a quantum."""

    def state(client: str, adapter: str) -> RequestState:
        return RequestState(1, GenerationRequest("", client=client, adapters=((adapter, 1.0),)), [1], limit=1000)

    held = [state("a", "mail") for _ in range(3)]
    for answer in held:
        answer.n_prefilled = 1
    for n_generated, same, other in (
        (QUANTUM // AWAY_PART, None, held[-1]),
        (QUANTUM // EXCESS_PART - 1, None, held[-1]),
        (QUANTUM // EXCESS_PART, held[-1], held[-1]),
    ):
        for answer in held:
            answer.n_generated = n_generated
        assert gives_way(held, [], state("b", "mail")) is same
        assert gives_way(held, [], state("b", "tone")) is other


def test_clients_take_turns_in_the_only_slot() -> None:
    """An answer that was paused goes on behind its own tokens, and has its slot for as many as it had before."""
    table = Table(replace(INFO, n_slots=1))
    first, other = (table.submit(prompt(20, kind), client=str(kind)) for kind in range(2))
    turns = []
    for _ in range(5000):
        table.admit()
        if answer := table.scheduler.gives_way():
            turns.append((answer.id, answer.n_generated - answer.n_before))
            table.scheduler.pause(answer)
            table.admit()
        table.step()
        assert table.scheduler.violations() == []
    assert turns[:6] == [(1, 256), (2, 256), (1, 256), (2, 256), (1, 512), (2, 512)]
    assert first.n_prompt == other.n_prompt == 20
    assert other.steps is None


def test_a_slot_is_given_to_the_other_client_and_not_to_who_came_first() -> None:
    table = Table(replace(INFO, n_slots=1))
    answer, *_ = [table.submit(prompt(20, kind), client="a") for kind in range(3)]
    other = table.submit(prompt(20, 3), client="b")
    while not (found := paused(table)):
        table.step()
    assert found == [answer]
    assert other.slot == 0


def test_answers_of_one_client_wait_for_each_other() -> None:
    table = Table()
    for kind in range(5):
        table.submit(prompt(20, kind))
    table.admit()
    for _ in range(3 * QUANTUM):
        table.step()
        assert paused(table) == []


def test_two_clients_whose_prompts_have_all_slots_leave_one_to_a_third() -> None:
    """The prompt of which least was read gives way, and goes on as its client's next."""
    table = Table(FOUR)
    held = [table.submit(prompt(1000, kind), client="a") for kind in range(3)]
    table.admit()
    held.append(table.submit(prompt(1000, 3), client="b"))
    later = table.submit(prompt(20, 4), client="a")
    table.admit()
    table.step()
    assert [request.n_prefilled for request in held] == [256, 0, 0, 256]
    third = table.submit(prompt(1000, 5), client="c")
    assert paused(table) == [held[2]]
    assert third.slot == 2
    table.scheduler.release(held[1])
    assert [admission.request for admission in table.admit()] == [later], "a long one would fill the last slot"
    table.scheduler.release(held[0])
    assert [admission.request for admission in table.admit()] == [held[2]]
    table.run(held[2])


def test_a_prompt_that_gave_way_is_its_clients_next() -> None:
    table = Table(replace(INFO, n_slots=2))
    held = [table.submit(prompt(200, kind), client="a") for kind in range(4)]
    table.admit()
    other = table.submit(prompt(20, 4), client="b")
    assert paused(table) == held[1:2]
    table.scheduler.release(other)
    assert [admission.request for admission in table.admit()] == held[1:2]


@pytest.mark.parametrize("kind", [{"reuse": False}, {"echo": True, "top_logprobs": 1}, {"adapters": (("one", 1.0),)}])
def test_what_the_cache_has_does_not_count_where_it_is_not_used(kind: dict[str, Any]) -> None:
    table = Table(FOUR)
    table.run(table.submit(prompt(1000), client="a"))
    for _ in range(4):
        table.submit(prompt(1000), client="a", **kind)
    assert len(table.admit()) == 3


@pytest.mark.parametrize("n_answers", [1, 2])
def test_a_prompt_gives_way_until_as_much_as_it_has_must_be_read_again(n_answers: int) -> None:
    """Whoever comes meanwhile, and however long its client's answers go on."""
    table = Table(replace(INFO, n_slots=n_answers + 1))
    for kind in range(n_answers):
        table.submit(prompt(1000, kind), client="a")
        for _ in range(3):
            table.admit()
            table.step()
    long, n_read, gave_way = table.submit(prompt(3000, 3), client="a"), 0, 0
    for other in range(100):
        table.admit()
        for answer in table.scheduler.running:
            answer.n_before = answer.n_generated  # it has just come
        n_read += read_in(table.step()).get(long.id, 0)
        if long.decoding:
            break
        short = table.submit(prompt(20, 4 + other), client="b")
        gave_way += paused(table).count(long)
        table.scheduler.release(short)
    assert long.decoding
    assert gave_way > 3
    assert 3000 < n_read <= 6000


@pytest.mark.parametrize("n_slots", [1, 2])
def test_the_only_prompt_of_a_client_gives_way_once_to_a_much_shorter_one(n_slots: int) -> None:
    table = Table(replace(INFO, n_slots=n_slots))
    held = [table.submit(prompt(4000, kind), client=str(kind)) for kind in range(n_slots)]
    table.admit()
    assert table.submit(prompt(20, 2), client="c").slot < 0
    assert paused(table) == [], "nothing of it was read"
    table.step()
    gave_way = paused(table)
    assert gave_way == held[-1:]
    for _ in range(20):  # the half of each
        for request in {*table.scheduler.running}.difference(held):
            table.scheduler.release(request)
        table.submit(prompt(20, 5), client=str(table.n_submitted))
        gave_way += paused(table)
        table.step()
    assert sorted(request.id for request in gave_way) == [request.id for request in held]


def test_the_only_prompt_of_a_client_keeps_its_slot_where_little_is_left_or_who_waits_has_more_to_read() -> None:
    table = Table(replace(INFO, n_slots=1))
    held = table.submit(prompt(4000), client="a")
    table.admit()
    table.step()
    longer = table.submit(prompt(1000, 2), client="b")
    assert paused(table) == []
    table.scheduler.release(longer)
    while held.n_prefilled <= 2000:
        table.step()
    table.submit(prompt(20, 3), client="c")
    assert paused(table) == []


def test_an_answer_that_had_its_turn_does_not_pass_a_prompt() -> None:
    table = Table(replace(INFO, n_slots=1))
    answer = table.submit(prompt(20, 1), client="a")
    other = table.submit(prompt(4000, 2), client="b")
    while not paused(table):
        table.step()
    while not other.decoding:
        table.step()
        assert paused(table) == []
    assert answer.slot < 0


def test_what_a_prompt_waits_when_it_gave_way_is_no_reading() -> None:
    request = RequestState(1, GenerationRequest(""), [1, 2, 3], limit=9, arrived=1.0)

    def seconds(now: float) -> tuple[float, ...]:
        timings = request.timings(now)
        return timings.queued_s, timings.prefill_s, timings.decode_s

    request.begin(2.0)
    request.slot, request.n_prefilled = 0, 2
    assert seconds(5.0) == (1.0, 3.0, 0.0)
    request.pause([1, 2], 5.0)
    assert (request.prompt, request.n_again, request.n_lost) == ([1, 2, 3], 0, 2)
    assert seconds(9.0) == (5.0, 3.0, 0.0)
    request.slot = 0
    request.begin(9.0)
    request.first = 11.0
    assert seconds(12.0) == (5.0, 5.0, 1.0)


def test_what_was_answered_is_read_again_in_small_parts() -> None:
    table = Table(replace(INFO, n_slots=1, n_ctx=8192))
    answer = table.submit(prompt(700, 1), client="a")
    other = table.submit(prompt(20, 2), client="b")
    while answer not in paused(table):
        table.step()
    table.run(other)
    table.admit()
    sizes = []
    while not answer.decoding:
        sizes.append(len(table.step().batch[0].tokens))
    assert sizes == [512, 188, *[CONTINUED_CHUNK] * 7, 31]


def test_rows_of_logits_are_shared_by_client() -> None:
    table = Table(FOUR)
    told = [table.submit(prompt(1000, kind), client="a", echo=True, top_logprobs=1) for kind in range(2)]
    other = table.submit(prompt(1000, 3), client="b", echo=True, top_logprobs=1)
    table.admit()
    step = table.step()
    assert read_in(step) == {told[0].id: 1 + 16, told[1].id: 1, other.id: 1 + 16}
    assert sum(entry.n_logits for entry in step.batch) == FOUR.max_logits


def test_tokens_that_another_client_had_read_are_not_told() -> None:
    table = Table(replace(INFO, n_slots=1))
    table.run(table.submit(prompt(100), client="a"))
    guess = table.submit([*prompt(90), 7], client="b")
    table.admit()
    assert (guess.n_prefilled, guess.usage.cached_tokens, guess.steps) == (90, 0, None)
    table.run(guess)
    again = table.submit([*prompt(90), 7, 8], client="b")
    table.admit()
    assert (again.n_prefilled, again.usage.cached_tokens) == (91, 91)
    assert again.steps is not None


def test_what_a_client_had_read_itself_is_told_wherever_it_is_copied_from() -> None:
    table = Table(replace(INFO, n_slots=2, fork_copies=False))
    table.run(table.submit(prompt(50), client="a"))
    table.submit(prompt(100), client="b")
    table.admit()
    assert table.scheduler.slots[0].client == "b"
    table.run(table.submit([*prompt(40), 7], client="a"))
    request = table.submit(prompt(60), client="a")
    (admission,) = table.admit()
    assert (admission.slot, admission.source, admission.n_keep) == (1, 0, 59)
    assert (request.n_prefilled, request.usage.cached_tokens) == (59, 40)


def test_planning_changes_nothing() -> None:
    table = Table()
    table.submit(prompt(700, 1))
    table.submit(prompt(20, 2))
    table.admit()
    assert table.scheduler.plan() == table.scheduler.plan()


def test_the_longest_prefix_is_taken_over_in_place() -> None:
    table = Table()
    together = [table.submit(prompt(n) + prompt(10, n)) for n in (100, 200, 300)]
    table.admit()
    for _ in range(2):
        table.step()
    for request in together:
        table.scheduler.release(request)
    table.submit(prompt(300) + prompt(50, 7))
    (admission,) = table.admit()
    assert (admission.slot, admission.source, admission.n_keep) == (2, 2, 300)


def test_one_token_at_least_is_computed() -> None:
    table = Table()
    table.run(table.submit(prompt(100)))
    request = table.submit(prompt(100))
    assert table.admit()[0].n_keep == 99
    assert request.n_cached == 99
    assert [(e.n_past, len(e.tokens), e.n_logits) for e in table.step().batch] == [(99, 1, 1)]


@pytest.mark.parametrize(
    ("copies", "n_common", "forks"),
    [
        (True, MIN_FORK_TOKENS, True),
        (True, MIN_FORK_TOKENS - 1, False),
        (False, MIN_FORK_TOKENS_SHARED, True),
        (False, MIN_FORK_TOKENS_SHARED - 1, False),
    ],
)
def test_a_busy_slot_is_copied_where_that_saves_enough(copies: bool, n_common: int, forks: bool) -> None:
    table = Table(replace(INFO, fork_copies=copies))
    table.submit(prompt(400))
    table.admit()
    table.step()
    table.submit(prompt(n_common) + prompt(50, 9))
    (admission,) = table.admit()
    assert admission.slot == 1
    assert (admission.source, admission.n_keep) == ((0, n_common) if forks else (1, 0))


def test_a_copy_goes_over_the_slot_unused_for_longest() -> None:
    table = Table()
    busy = table.submit(prompt(400))
    table.admit()
    table.step()
    table.run(table.submit(prompt(20, 1)))
    table.run(table.submit(prompt(20)))  # a good prefix too, but a shorter one
    table.submit([*prompt(390), 5])
    (admission,) = table.admit()
    assert busy.slot == admission.source == 0
    assert admission.slot == 1


def test_of_equal_prefixes_the_older_one_is_taken() -> None:
    table = Table()
    first, second = table.submit(prompt(20)), table.submit(prompt(20))
    table.admit()
    table.step()
    table.scheduler.release(second)
    table.step()
    table.scheduler.release(first)
    table.submit(prompt(20))
    assert [a.slot for a in table.admit()] == [1]


def test_slots_are_given_up_least_recently_used_first() -> None:
    table = Table()
    for kind in (1, 2, 3):
        table.run(table.submit(prompt(20, kind)))
    table.run(table.submit(prompt(20, 1)))  # slot 0 again
    for kind, slot in ((4, 1), (5, 2), (6, 0)):
        table.submit(prompt(20, kind))
        assert [a.slot for a in table.admit()] == [slot]


def test_a_beginning_that_all_have_does_not_evict_a_conversation() -> None:
    """BOS and a system prompt are in every slot; the slot of a long conversation is not given up for them."""
    table = Table()
    table.run(table.submit(prompt(30) + prompt(500, 1)))
    table.submit(prompt(30) + prompt(40, 2))
    (admission,) = table.admit()
    assert admission.slot == 1
    table.step()
    table.submit(prompt(30) + prompt(500, 1) + prompt(20, 3))
    (admission,) = table.admit()
    assert (admission.slot, admission.n_keep) == (0, 530)


def test_an_engine_that_cannot_rewind_computes_anew() -> None:
    table = Table(rewinds=False)
    table.run(table.submit(prompt(100)))
    request = table.submit(prompt(100))
    table.admit()
    assert (request.n_cached, request.n_prefilled) == (0, 0)
    assert table.scheduler.violations() == []
    assert len(table.step().batch[0].tokens) == 100


def test_more_slots_than_a_step_has_tokens() -> None:
    """No more run than a step has tokens: each answer gets on in every step, beside them one prompt."""
    table = Table(replace(INFO, n_slots=6, n_ctx=64, max_batch_tokens=4))
    for kind in range(6):
        table.submit(prompt(8, kind))
    assert len(table.admit()) == 4
    for _ in range(300):
        table.admit()
        running = list(table.scheduler.running)
        assert len(running) <= 4
        decoding = {request for request in running if request.decoding}
        step = table.step()
        assert decoding <= set(step.requests)
        assert len(decoding) == len(running) or not decoding >= set(step.requests), "a prompt gets on too"
    assert table.scheduler.idle


def test_a_full_queue_refuses() -> None:
    table = Table(max_waiting=2)
    table.submit([1])
    last = table.submit([2])
    with refuses(Overloaded):
        table.submit([3])
    table.scheduler.release(last)
    table.submit([3])


def test_nobody_starves() -> None:
    """Requests come faster than they are served, with prefixes that please the cache: they still start in order."""
    table = Table(replace(INFO, n_slots=2, max_batch_tokens=32))
    started: list[int] = []
    waiting = [table.submit(prompt(60 + n % 5, n % 3)) for n in range(40)]
    for _ in range(2000):
        started += [admission.request.id for admission in table.admit()]
        for request in table.step().requests:
            if request.decoding and len(table.cache[request.slot]) > 70:
                table.scheduler.release(request)
        if table.scheduler.idle:
            break
    assert started == [request.id for request in waiting]
    assert table.scheduler.idle


def test_releasing_twice_or_before_the_start_is_harmless() -> None:
    table = Table()
    request = table.submit(prompt(5))
    table.scheduler.release(request)
    table.scheduler.release(request)
    assert table.scheduler.idle
    assert table.admit() == []


def test_a_forgotten_slot_is_no_prefix() -> None:
    table = Table()
    first = table.submit(prompt(100))
    table.run(first)
    assert table.scheduler.forget(0) is None
    table.cache[0] = []
    second = table.submit(prompt(100))
    table.admit()
    assert second.n_cached == 0
    assert table.scheduler.forget(second.slot) is second


@pytest.mark.parametrize("n", [0, 1, 2, 3, 100])
def test_common_prefix(n: int) -> None:
    assert common_prefix([*prompt(n), -1, 5], [*prompt(n), -2, 5]) == n
    assert common_prefix(prompt(n), [*prompt(n), 7]) == n
    assert common_prefix(prompt(n), prompt(n)) == n


class Machine(RuleBasedStateMachine):
    """Requests are submitted, cancelled, admitted and computed in any order; after each operation all is well."""

    @initialize(
        n_slots=st.integers(1, 4), budget=st.integers(1, 40), copies=st.booleans(), rewinds=st.booleans(),
        n_ctx=st.integers(60, 90),
    )  # fmt: skip
    def start(self, n_slots: int, budget: int, copies: bool, rewinds: bool, n_ctx: int) -> None:
        info = replace(INFO, n_slots=n_slots, n_ctx=n_ctx, max_batch_tokens=budget, max_logits=max(n_slots, budget),
                       fork_copies=copies)  # fmt: skip
        self.table = Table(info, rewinds=rewinds, max_waiting=8)
        self.open: list[RequestState] = []
        self.order: dict[str, list[int]] = {client: [] for client in "abc"}

    @rule(
        n=st.integers(1, 50), kind=st.integers(0, 2), tail=st.integers(0, 5), choices=st.sampled_from((1, 1, 1, 2, 5)),
        client=st.sampled_from("abc"),
    )  # fmt: skip
    def submit(self, n: int, kind: int, tail: int, choices: int, client: str) -> None:
        if len(self.table.scheduler.waiting) + choices > 8:
            with pytest.raises(Overloaded):
                self.table.submit([0], choices)
        else:
            first = self.table.submit(prompt(n, kind) + prompt(tail, 5), choices, client)
            self.open += self.table.choices[first.id]

    @rule()
    def admit(self) -> None:
        held = [list(tokens) for tokens in self.table.cache]
        for admission in self.table.admit():
            request = admission.request
            if request.choice:
                at_hand = max(common_prefix(tokens, request.prompt) for tokens in held)
                assert admission.n_keep >= at_hand, "a choice reads again what is in a slot"
            elif not request.paused:
                assert admission.n_keep < len(request.prompt)
                self.order[request.generation.client].append(request.id)
            held = [list(tokens) for tokens in self.table.cache]
        assert all(order == sorted(order) for order in self.order.values()), "first come, first served"

    @rule()
    def step(self) -> None:
        had = {id(request) for request in self.table.scheduler.running if request.decoding}
        step = self.table.step()
        budget = self.table.info.max_batch_tokens
        sizes = [len(entry.tokens) for entry in step.batch]
        assert sum(sizes) <= budget
        assert all(sizes)
        assert sum(entry.n_logits for entry in step.batch) <= self.table.info.max_logits
        decoding = [id(request) in had for request in step.requests]
        assert [entry.slot for entry in step.batch] == sorted(entry.slot for entry in step.batch)
        assert sum(decoding) == len(had)
        if any(decoding):
            assert sum(size for size, is_decoding in zip(sizes, decoding, strict=True) if not is_decoding) <= BUSY_CHUNK
        self.open = [request for request in self.open if self.is_open(request)]

    @rule(quantum=st.integers(EXCESS_PART, 16))
    def share(self, quantum: int) -> None:
        """Each that gives way has more slots than the client that gets one."""
        scheduler, n_paused = self.table.scheduler, 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edgellm.runtime.slot_share.QUANTUM", quantum)
            self.admit()
            while (answer := scheduler.gives_way()) is not None:
                held = Counter(request.generation.client for request in scheduler.running)
                n_paused += 1
                scheduler.pause(answer)
                (admission, *_) = [*self.table.admit(), None]
                assert admission is not None
                assert held[admission.request.generation.client] < held[answer.generation.client]
                assert answer.slot < 0
        assert n_paused <= 4

    @precondition(lambda self: self.open)
    @rule(data=st.data(), keep=st.booleans())
    def cancel(self, data: st.DataObject, keep: bool) -> None:
        self.end(data.draw(st.sampled_from(self.open)), keep)

    def end(self, ended: RequestState, keep: bool) -> None:
        """With its other choices, as they are one request."""
        for request in self.table.choices[ended.id]:
            if request in self.open:
                if not keep and request.slot >= 0:
                    self.table.cache[request.slot] = []
                self.table.scheduler.release(request, keep_cache=keep)
                self.open.remove(request)

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        slot = data.draw(st.integers(0, self.table.info.n_slots - 1))
        self.table.cache[slot] = []
        owner = self.table.scheduler.forget(slot)
        if owner is not None:
            self.end(owner, keep=False)

    @invariant()
    def all_is_well(self) -> None:
        scheduler = self.table.scheduler
        assert scheduler.violations() == []
        assert [slot.tokens for slot in scheduler.slots] == self.table.cache
        assert all(map(self.is_open, self.open))
        assert len(self.open) == len(scheduler.waiting) + len(scheduler.running)

    def is_open(self, request: RequestState) -> bool:
        return request in self.table.scheduler.waiting or request in self.table.scheduler.running

    def teardown(self) -> None:
        """Whatever happened, everybody who is left gets on."""
        if not hasattr(self, "table"):
            return
        for _ in range(3000):
            if self.table.scheduler.idle:
                return
            self.table.admit()
            self.table.step()
        raise AssertionError(f"{len(self.table.scheduler.running)} run for ever")


TestAnyOrder = Machine.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_batch_is_in_order_of_slots() -> None:
    """llama.cpp computes slots that follow one another in one pass, and starts a new one wherever the order breaks."""
    table = Table()
    table.run(table.submit(prompt(20)))  # slot 0 is now the one used last: later requests get 1, 2, 0
    for kind in (1, 2, 3):
        table.submit(prompt(10, kind))
    table.admit()

    assert [request.slot for request in table.scheduler.running] == [1, 2, 0]
    step = table.scheduler.plan()
    assert [entry.slot for entry in step.batch] == [0, 1, 2]
    assert [request.slot for request in step.requests] == [0, 1, 2]


def test_a_new_answer_runs_beside_the_others() -> None:
    """With slot 3 busy, slot 2 is taken though 0 and 1 were unused for longer: one pass over the weights, not two."""
    table = Table(replace(INFO, n_slots=4, max_logits=4))
    for kind in range(1, 5):
        table.submit(prompt(10, kind))
    table.admit()
    table.step()
    for request in table.scheduler.running[:3]:
        table.scheduler.release(request)
    for index in range(3):
        table.scheduler.slots[index].used = index

    table.submit(prompt(10, 5))

    assert [admission.slot for admission in table.admit()] == [2]
