"""Batched answers equal isolated ones; a step that fails costs the requests it must cost, and nothing else."""

from __future__ import annotations

import queue
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec import structs
from support.mixes import Answer, Planned, play, random_mix, random_request
from support.refusals import check_refusal
from support.toy_engine import ToyEngine, ToyTokenizer, answer

from edgellm.builtin.echo import EchoEngine
from edgellm.contract.engine import SlotInput
from edgellm.errors import BackendError, CacheFull, ContextOverflow, StepFailed, UsageError
from edgellm.runtime import loop, wire
from edgellm.runtime.loop import Loop
from edgellm.types.event import Delta, Done
from edgellm.types.plan import Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling
from edgellm.types.sampling_defaults import NEUTRAL, USUAL, SamplingDefaults, SamplingPart

if TYPE_CHECKING:
    from edgellm.contract.engine import Logits

STEM = "Once upon a time there was a small model that lived in a very small machine. " * 3
PROMPTS = (
    *(STEM[:n] for n in (1, 5, 20, 60, 150, 200)),
    STEM[:40] + "But then it rained.",
    STEM[:150] + "Nobody knew.",
    "Quite another beginning",
    "é🙂",
)
STOPS = ("a", "ab", "é", "🙂", "ba ab", "\n", "abc.", "c")
GREEDY = Sampling(temperature=0)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow(4)) for seed in range(2, 10))])
def test_mixes_answer_as_if_each_request_were_alone(seed: int) -> None:
    """200 mixes: prefixes, choices, arrivals, cancellations, seeds, stop strings, penalties; engines of every kind."""
    rng = random.Random(seed)
    for _ in range(20):
        requests = [
            structs.replace(random_request(rng, PROMPTS, longest=40, stops=STOPS), n=rng.choice((1, 1, 1, 2, 5)))
            for _ in range(6)
        ]
        engine = ToyEngine(
            n_slots=rng.randint(1, 4), n_batch=rng.choice((4, 32, 512)), rewind=rng.choice((None, 0, 8)),
            fork_copies=rng.random() < 0.5,
        )  # fmt: skip
        mix = random_mix(rng, requests)
        for planned, found in zip(mix, play(engine, mix), strict=True):
            check_answer(planned, found)


def check_answer(planned: Planned, found: Answer) -> None:
    assert found.error is None
    for number in range(planned.request.n):
        check_choice(planned, found.choice(number), number)


def check_choice(planned: Planned, found: Answer, number: int) -> None:
    text, reason, n_tokens = answer(planned.request, choice=number)
    assert found.usage is not None
    assert found.usage.cached_tokens < found.usage.prompt_tokens + (number > 0)
    if found.reason == "cancelled":
        assert planned.cancelled is not None
        assert text.startswith(found.text)
        assert found.usage.completion_tokens <= n_tokens
    else:
        assert (found.text, found.reason, found.usage.completion_tokens) == (text, reason, n_tokens)


def test_the_echo_engine_says_each_prompt_back_from_a_batch() -> None:
    prompts = [f"{STEM[:30]}{n} é🙂 " * (n % 3 + 1) for n in range(12)]
    mix = [Planned(GenerationRequest(prompt, GREEDY), arrives=n) for n, prompt in enumerate(prompts)]
    found = play(EchoEngine(Settings(n_ctx=512, n_slots=3, n_batch=64)), mix)
    assert [a.text for a in found] == prompts
    assert {a.reason for a in found} == {"stop"}


def ask(prompt: str = STEM[:40], n: int | None = 6, **kind: object) -> GenerationRequest:
    """Greedy, `n` tokens, whatever the model says."""
    return structs.replace(GenerationRequest(prompt, GREEDY, max_tokens=n, ignore_eos=True), **kind)


def test_what_slots_hold_is_not_computed_again() -> None:
    """Counted by the engine: a prompt asked again costs one token, a longer one its new end."""
    engine = ToyEngine()
    mix = [Planned(ask(STEM[:100])), Planned(ask(STEM[:100]), 50), Planned(ask(STEM[:130]), 100)]
    found = play(engine, mix)
    usages = [a.usage for a in found]
    assert [(u.prompt_tokens, u.cached_tokens, u.completion_tokens) for u in usages if u] == [
        (101, 0, 6), (101, 100, 6), (131, 101, 6),
    ]  # fmt: skip
    computed = sum(len(entry.tokens) for batch in engine.steps for entry in batch)
    assert computed == 101 + 1 + 30 + 3 * 5  # the last token of an answer is not computed with


def test_a_prefix_in_a_busy_slot_is_forked() -> None:
    engine = ToyEngine(n_batch=512)
    found = play(engine, [Planned(ask(STEM[:100], 30)), Planned(ask(STEM[:100] + "B"), 5)])
    assert engine.forks == 1
    assert found[1].usage is not None
    assert found[1].usage.cached_tokens == 101


@pytest.mark.parametrize("n_generated", [1, 2, 7])
def test_events_count_the_tokens(n_generated: int) -> None:
    found = play(ToyEngine(), [Planned(ask(n=n_generated))])[0]
    assert found.usage is not None
    assert found.usage.completion_tokens == n_generated
    assert found.n_tokens <= n_generated  # tokens that added no text are counted by the usage only


def test_a_full_context_ends_an_answer_with_length() -> None:
    engine = ToyEngine(n_ctx=64)
    found = play(engine, [Planned(ask(STEM[:40], None))])[0]
    assert found.reason == "length"
    assert found.usage is not None
    assert found.usage.prompt_tokens + found.usage.completion_tokens == 64 + 1  # the last one need not be cached
    assert len(engine.slots[0]) == 64
    assert (found.text, found.reason, found.usage.completion_tokens) == answer(ask(STEM[:40], None), n_ctx=64)


def test_a_prompt_that_leaves_no_room_is_refused_with_numbers() -> None:
    engine = ToyEngine(n_ctx=64)
    fits, overflows = ask(STEM[:62]), ask(STEM[:63])  # and BOS
    found = play(engine, [Planned(overflows), Planned(fits)])
    error = found[0].error
    check_refusal(error, ContextOverflow, n_prompt=64, n_ctx=64)
    assert found[1].reason == "length"


def test_an_empty_prompt_is_refused() -> None:
    found = play(ToyEngine(), [Planned(ask("", add_bos=False)), Planned(ask("", n=2))])
    assert isinstance(found[0].error, UsageError)
    assert found[1].reason == "length", "BOS alone is a prompt"


def test_the_end_token_ends_unless_ignored() -> None:
    """The toy model says a different thing after each prompt: one of 50 answers at least ends by itself."""
    prompts = [STEM[:20] + str(n) for n in range(50)]
    free = play(ToyEngine(), [Planned(ask(p, 30, ignore_eos=False)) for p in prompts])
    ended = [n for n, a in enumerate(free) if a.reason == "stop"]
    assert ended
    forced = play(ToyEngine(), [Planned(ask(prompts[n], 30)) for n in ended])
    for n, found in zip(ended, forced, strict=True):
        assert found.reason == "length"
        assert found.usage is not None
        assert found.usage.completion_tokens == 30
        assert found.text.startswith(free[n].text.rstrip("\ufffd"))


def test_a_cancelled_request_ends_before_the_next_step_and_frees_its_slot() -> None:
    endless = ask(n=None)
    engine = ToyEngine(n_slots=1)
    found = play(engine, [Planned(endless, 0, cancelled=10), Planned(ask("next", 2), 1)])
    assert (found[0].reason, found[0].finished_at) == ("cancelled", 10)
    assert found[1].reason == "length"
    assert found[1].finished_at == 12


def test_cancelling_on_the_way_leaves_no_trace() -> None:
    """While it waits, in the middle of its prompt, and after its end."""
    engine = ToyEngine(n_slots=1, n_batch=8)
    mix = [
        Planned(ask(STEM[:100], 2), 0, cancelled=3),
        Planned(ask(STEM[:90], 2), 1, cancelled=2),
        Planned(ask("short", 2), 1, cancelled=1000),
    ]
    found = play(engine, mix)
    assert [a.reason for a in found] == ["cancelled", "cancelled", "length"]
    assert found[2].text == answer(mix[2].request)[0]


class Failing(ToyEngine):
    """Raises once, at the step numbered `at` (from 0); `lose` empties slots first, as a real failure would."""

    def __init__(self, error: Exception, at: int = 4, lose: Sequence[int] = (), **kind: int) -> None:
        super().__init__(**kind)
        self.error: Exception | None = error
        self.at, self.lose = at, lose

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        if len(self.steps) == self.at and self.error is not None:
            error, self.error = self.error, None
            for slot in self.lose:
                self.slots[slot] = []
            raise error
        return super().step(batch)


def failed(engine: ToyEngine, mix: Sequence[Planned]) -> list[int]:
    """Numbers of the requests that failed; all others got the right answer, and so do all when asked again."""
    found = play(engine, mix)
    for planned, a in zip(mix, found, strict=True):
        if a.error is None:
            check_answer(planned, a)
    for planned, a in zip(mix, play(engine_again(engine), mix), strict=True):
        check_answer(planned, a)
    return [n for n, a in enumerate(found) if a.error is not None]


def engine_again(engine: ToyEngine) -> ToyEngine:
    for slot in range(engine.info.n_slots):
        engine.truncate(slot, 0)
    return engine


THREE = [Planned(ask(STEM[:20] + str(n), 12)) for n in range(3)]
# Comes when one of the three is done, and begins like it: what the slot lost must not be taken for a prefix.
LATER = [Planned(ask(STEM[:20] + str(n), 12), 30) for n in range(3)]


def test_a_failed_step_costs_the_slots_that_were_lost() -> None:
    engine = Failing(StepFailed("half done", lost_slots=(1,)), lose=(1,))
    assert failed(engine, [*THREE, *LATER]) == [1]


def test_a_failed_step_that_lost_an_idle_slot_costs_nobody() -> None:
    """The slot of a finished request is lost beside a running one; its tokens must not be reused."""
    first, second = Planned(ask(STEM[:60], 2)), Planned(ask("another", 20), 6)
    again = Planned(ask(STEM[:60], 2), 40)
    engine = Failing(StepFailed("lost", lost_slots=(0,)), at=12, lose=(0,))
    assert failed(engine, [first, second, again]) == []


def test_a_failed_step_that_names_no_slots_costs_all_of_them() -> None:
    engine = Failing(StepFailed("unknown"))
    assert failed(engine, [*THREE, *LATER]) == [0, 1, 2]


def test_a_full_cache_costs_the_last_one_only() -> None:
    assert failed(Failing(CacheFull("no cells")), [*THREE, *LATER]) == [2]


def test_any_other_exception_costs_the_requests_of_the_step() -> None:
    engine = Failing(RuntimeError("a bug in a plugin"))
    mix = [*THREE, Planned(ask("waits", 3)), *LATER]
    assert failed(engine, mix) == [0, 1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_cost_one_request(value: float) -> None:
    class Spoiled(ToyEngine):
        def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
            rows = super().step(batch)
            if len(self.steps) == 5:
                rows[1] = np.full_like(rows[1], value)
            return rows

    assert failed(Spoiled(), [*THREE, *LATER]) == [1]
    check_refusal(play(Spoiled(), THREE)[1].error, BackendError)


def test_failures_are_typed_and_say_what_happened() -> None:
    found = play(Failing(RuntimeError("a bug in a plugin")), THREE)
    assert {type(a.error) for a in found} == {BackendError}
    check_refusal(found[0].error, BackendError)
    lost = play(Failing(StepFailed("half done", lost_slots=(1,)), lose=(1,)), THREE)[1].error
    assert isinstance(lost, StepFailed)


def test_a_prompt_that_breaks_the_tokenizer_costs_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = ToyTokenizer.encode

    def breaks(self: ToyTokenizer, text: str, **kind: bool) -> list[int]:
        return encode(self, text if text == "next" else "\ud800", **kind)

    monkeypatch.setattr(ToyTokenizer, "encode", breaks)
    found = play(ToyEngine(), [Planned(ask("broken")), Planned(ask("next", 2))])
    assert isinstance(found[0].error, BackendError)
    assert found[1].reason == "length"


def test_a_stop_without_drain_ends_everything_at_once() -> None:
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    heard: list[wire.Up] = []
    for number in range(5):
        inbox.put(wire.Submit(number, ask(n=None)))
    inbox.put(wire.Stop(drain=False))
    engine = ToyEngine()
    Loop(engine, inbox, heard.extend).run()
    assert [message.event.finish_reason for message in heard if isinstance(message.event, Done)] == ["cancelled"] * 5
    assert engine.steps == []


@pytest.mark.parametrize("pause_s", [0.0, 3600.0])
def test_each_step_is_sent_in_one_piece(monkeypatch: pytest.MonkeyPatch, pause_s: float) -> None:
    """However many answers a step goes on with: one frame, one wake-up, and within the pause not even that.

    The first text of an answer does not wait, nor does the last.
    """
    monkeypatch.setattr(loop, "FLUSH_INTERVAL_S", pause_s)
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    sent: list[list[wire.Up]] = []
    for number in range(3):
        inbox.put(wire.Submit(number, ask(n=9)))  # the last one ends a character
    inbox.put(wire.Stop(drain=True))
    engine = ToyEngine()
    Loop(engine, inbox, sent.append).run()
    texts = [message for frame in sent for message in frame if isinstance(message.event, Delta)]

    assert len(sent) <= len(engine.steps)
    assert [sum(text.event.n_tokens for text in texts if text.id == number) for number in range(3)] == [9, 9, 9]
    assert [next(text.event.n_tokens for text in texts if text.id == number) for number in range(3)] == [1, 1, 1]
    if pause_s:
        assert len(texts) <= 6 + 2  # two prompts came while another answer ran, and let it speak
    else:
        assert max(map(len, sent)) >= 3


DEFAULTS = SamplingDefaults((SamplingPart("operator", Sampling(temperature=0.0)), SamplingPart("usual", USUAL.values)))


def drawn(
    request: GenerationRequest, defaults: SamplingDefaults, thinking: SamplingDefaults | None = None
) -> tuple[str, Done]:
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    heard: list[wire.Up] = []
    inbox.put(wire.Submit(1, request))
    inbox.put(wire.Stop(drain=True))
    Loop(ToyEngine(), inbox, heard.extend, defaults, thinking_sampling=thinking).run()
    events = [message.event for message in heard]
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]


def test_what_a_request_leaves_open_is_drawn_as_the_plan_says() -> None:
    open_request = GenerationRequest(STEM[:40], max_tokens=12, ignore_eos=True)
    text, done = drawn(open_request, DEFAULTS)

    assert text == drawn(ask(n=12), NEUTRAL)[0], "greedy"
    assert [part.origin for part in done.timings.sampling] == ["operator", "usual"]


@pytest.mark.parametrize("seed", range(5))
def test_a_request_that_says_one_value_keeps_the_rest(seed: int) -> None:
    hot = Sampling(temperature=3.0, seed=seed)
    defaults = SamplingDefaults((SamplingPart("usual", Sampling(temperature=0.8, top_k=1)),))
    text, done = drawn(ask(n=12, sampling=hot), defaults)

    assert text == drawn(ask(n=12), NEUTRAL)[0], "of one token the hottest is the first"
    assert text != drawn(ask(n=12, sampling=hot), NEUTRAL)[0]
    assert done.timings.sampling == (
        SamplingPart("request", hot),
        SamplingPart("usual", Sampling(top_k=1)),
    )


def test_an_answer_that_thinks_is_drawn_by_the_values_for_it() -> None:
    usual = SamplingDefaults((SamplingPart("catalog", Sampling(temperature=0.7), thinking=False),))
    thought = SamplingDefaults((SamplingPart("catalog", Sampling(temperature=0.6), thinking=True),))
    request = structs.replace(ask(n=3, sampling=Sampling()), thinking=True)

    assert drawn(request, usual, thought)[1].timings.sampling == thought.parts
    assert drawn(request, usual)[1].timings.sampling == usual.parts
    assert drawn(structs.replace(request, thinking=False), usual, thought)[1].timings.sampling == usual.parts


def test_a_seed_of_the_plan_says_the_same_again() -> None:
    open_request = GenerationRequest(STEM[:40], max_tokens=30, ignore_eos=True)
    seeded = SamplingDefaults((SamplingPart("operator", Sampling(temperature=2.0, seed=11)),))

    assert drawn(open_request, seeded)[0] == drawn(open_request, seeded)[0]
    assert drawn(structs.replace(open_request, sampling=Sampling(seed=12)), seeded)[0] != drawn(open_request, seeded)[0]


def test_logprobs_of_a_batch_are_those_of_one_alone() -> None:
    """Text may be held back for a stop string; logprobs are told of every token, once, in order."""
    rng = random.Random(5)
    requests = [
        structs.replace(random_request(rng, PROMPTS, longest=30, stops=STOPS), top_logprobs=rng.choice((0, 3)))
        for _ in range(12)
    ]
    mix = [Planned(request, at) for at, request in enumerate(requests)]
    for planned, batched in zip(mix, play(ToyEngine(n_slots=3), mix), strict=True):
        alone = play(ToyEngine(n_slots=1), [Planned(planned.request)])[0]
        assert batched.logprobs == alone.logprobs
        assert len(batched.logprobs) == batched.n_tokens > 0
        assert all(len(token.top) == planned.request.top_logprobs for token in batched.logprobs)
