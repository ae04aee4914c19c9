"""Several answers to one request: they share its prompt's computation, and each is what it would be alone."""

from __future__ import annotations

import queue
from collections.abc import Sequence

import pytest
from msgspec import structs
from support.mixes import Planned, play
from support.toy_engine import EOS, ToyEngine, answer

from edgellm.builtin.echo import EchoEngine
from edgellm.contract.engine import SlotInput
from edgellm.errors import GrammarFailed, StepFailed, UsageError
from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.runtime.session import Dispatcher, QueueSink
from edgellm.text.sampling import Sampler
from edgellm.types.event import Delta, Done
from edgellm.types.grammar import Grammar
from edgellm.types.plan import Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

PROMPT = "Once upon a time there was a small model"


def ask(n: int = 4, max_tokens: int | None = 8, **kind: object) -> GenerationRequest:
    request = GenerationRequest(PROMPT, Sampling(seed=7), max_tokens, ignore_eos=True, n=n)
    return structs.replace(request, **kind)


def n_computed(engine: ToyEngine) -> int:
    return sum(len(entry.tokens) for batch in engine.steps for entry in batch)


def events(engine: ToyEngine, request: GenerationRequest) -> list[Delta | Done | wire.Failed]:
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    heard: list[wire.Up] = []
    inbox.put(wire.Submit(1, request))
    inbox.put(wire.Stop(drain=True))
    Loop(engine, inbox, heard.extend).run()
    return [message.event for message in heard if isinstance(message, wire.Reply)]  # type: ignore[misc]


@pytest.mark.parametrize("fork_copies", [True, False])
@pytest.mark.parametrize(("n_slots", "rewind"), [(4, None), (3, None), (2, None), (1, None), (4, 0), (5, 0)])
def test_n_answers_cost_one_prefill(n_slots: int, rewind: int | None, fork_copies: bool) -> None:
    """Counted in the engine: each token of the prompt once, and of each answer all but the last."""
    engine = ToyEngine(n_slots=n_slots, rewind=rewind, fork_copies=fork_copies)
    found = play(engine, [Planned(ask())])[0]

    assert n_computed(engine) == len(PROMPT) + 1 + 4 * 7
    assert [choice.text for choice in found.choices] == [answer(ask(), choice=number)[0] for number in range(4)]
    assert len({choice.text for choice in found.choices}) == 4


def test_choices_look_at_the_row_behind_their_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To sort a vocabulary takes 10 ms, and all who are answered wait for each draw."""
    looked: list[None] = []
    own = Sampler._pick
    monkeypatch.setattr(Sampler, "_pick", lambda *arguments: looked.append(None) or own(*arguments))
    found = play(ToyEngine(n_slots=4), [Planned(ask(max_tokens=1))])[0]

    assert len(found.choices) == 4
    assert len(looked) == 1


def test_an_engine_that_cannot_go_back_reads_the_prompt_again_where_slots_are_too_few() -> None:
    engine = ToyEngine(n_slots=2, rewind=0)
    found = play(engine, [Planned(ask())])[0]

    assert [choice.text for choice in found.choices] == [answer(ask(), choice=number)[0] for number in range(4)]
    usages = [choice.usage for choice in found.choices]
    assert [usage.cached_tokens for usage in usages if usage] == [0, len(PROMPT) + 1, 0, 0], "and it is told"


def test_choice_0_is_the_answer_of_n_1() -> None:
    alone, several = (play(ToyEngine(), [Planned(ask(n))])[0].text for n in (1, 4))
    assert alone == several


def test_answers_of_one_token_need_no_second_slot() -> None:
    engine = ToyEngine(n_slots=1)
    found = play(engine, [Planned(ask(5, max_tokens=1))])[0]

    assert [choice.text for choice in found.choices] == [answer(ask(1, 1), choice=number)[0] for number in range(5)]
    assert n_computed(engine) == len(PROMPT) + 1
    assert [choice.usage.cached_tokens for choice in found.choices[1:] if choice.usage] == [len(PROMPT) + 1] * 4


def test_one_ends_while_others_go_on() -> None:
    """At its own end token, so at a time of its own."""
    request = ask(6, 60, ignore_eos=False)
    found = play(ToyEngine(n_slots=3), [Planned(request)])[0]
    expected = [answer(request, choice=number) for number in range(6)]

    assert [(choice.text, choice.reason) for choice in found.choices] == [each[:2] for each in expected]
    assert len({choice.finished_at for choice in found.choices}) > 2


def test_the_last_end_says_that_none_is_open() -> None:
    ends = [event for event in events(ToyEngine(), ask()) if isinstance(event, Done)]
    assert [end.n_open for end in ends] == [3, 2, 1, 0]
    assert sorted(end.choice for end in ends) == [0, 1, 2, 3]


def test_usage_and_timings_are_those_of_each_choice() -> None:
    ends = {event.choice: event for event in events(ToyEngine(n_slots=2), ask()) if isinstance(event, Done)}
    assert [ends[choice].usage.completion_tokens for choice in range(4)] == [8] * 4
    assert [ends[choice].usage.cached_tokens for choice in range(4)] == [0, *[len(PROMPT) + 1] * 3]
    assert all(min(end.timings.queued_s, end.timings.prefill_s, end.timings.decode_s) >= 0 for end in ends.values())


def test_a_choice_that_waits_for_a_slot_was_queued_and_not_slow() -> None:
    """On one slot each decodes in turn: the time of the others is not its own."""
    timings = [event.timings for event in events(ToyEngine(n_slots=1), ask(max_tokens=40)) if isinstance(event, Done)]
    queued = [timing.queued_s for timing in timings]
    assert queued == sorted(queued)
    assert queued[3] >= sum(timing.decode_s for timing in timings[:3]) - timings[0].decode_s


def test_a_cancelled_request_ends_with_all_its_choices() -> None:
    for step in (0, 1, 3, 9):
        engine = ToyEngine(n_slots=2)
        found = play(engine, [Planned(ask(5, None), 0, cancelled=step), Planned(ask(1, 3), 1)])
        assert {choice.reason for choice in found[0].choices} == {"cancelled"}
        assert len(found[0].choices) == 5
        assert found[1].text == answer(ask(1, 3))[0]


def test_others_pass_while_the_prompt_is_read() -> None:
    """A prompt of ten steps: a short request that came later gets the free slot, not the choices that cannot start."""
    long = structs.replace(ask(3), prompt=PROMPT * 4)
    engine = ToyEngine(n_slots=2, n_batch=16)
    found = play(engine, [Planned(long), Planned(structs.replace(ask(1, 2), prompt="x"))])
    assert found[1].finished_at < found[0].finished_at
    assert [choice.text for choice in found[0].choices] == [answer(long, choice=number)[0] for number in range(3)]


def test_a_step_that_fails_costs_the_whole_request_and_no_other() -> None:
    class Failing(ToyEngine):
        def step(self, batch: Sequence[SlotInput]) -> list:  # type: ignore[type-arg]
            if len(self.steps) == 5:
                self.steps.append(())
                self.slots[1] = []
                raise StepFailed("half done", lost_slots=(1,))
            return super().step(batch)

    engine = Failing(n_slots=4)
    failed, other = play(engine, [Planned(ask(3)), Planned(structs.replace(ask(1, 20), prompt="other"), 2)])
    assert isinstance(failed.error, StepFailed)
    assert {choice.reason for choice in failed.choices} == {""}, "an error is the last word on all of them"
    assert other.text == answer(structs.replace(ask(1, 20), prompt="other"))[0]


def test_a_choice_that_fails_ends_the_request() -> None:
    """Its grammar becomes too ambiguous in all of them: one error."""
    pytest.importorskip("llguidance")
    longer = " | ".join(" ".join("e" * length) for length in range(2, 20))
    grammar = Grammar("lark", f'start: e\ne: "a" | {longer}')
    never_ends = Sampling(temperature=0, logit_bias=((EOS, -100.0),))
    request = ask(3, 200, sampling=never_ends, grammar=grammar)
    found = play(ToyEngine(n_slots=2), [Planned(request)])[0]
    assert isinstance(found.error, GrammarFailed)


def test_each_choice_keeps_to_the_grammar_by_itself() -> None:
    pytest.importorskip("llguidance")
    grammar = Grammar("choice", '["yes", "yesterday", "no", "never"]')
    request = ask(8, 40, sampling=Sampling(seed=3, temperature=2.0), grammar=grammar)
    engine = EchoEngine(Settings(n_ctx=128, n_slots=3))
    texts = [choice.text for choice in play(engine, [Planned(request)])[0].choices]
    assert len(texts) == 8
    assert set(texts) <= {"yes", "yesterday", "no", "never"}
    assert len(set(texts)) > 1


@pytest.mark.parametrize("n", [0, 129])
def test_more_or_fewer_are_refused(n: int) -> None:
    with pytest.raises(UsageError) as refusal:
        ask(n)
    assert refusal.value.param == "n"


def test_a_listener_hears_all_choices() -> None:
    dispatcher, sink = Dispatcher(), QueueSink()
    request_id = dispatcher.add(sink)
    said = events(ToyEngine(), ask(2))
    dispatcher.deliver([wire.Reply(request_id, event) for event in said])
    assert [sink.get(0) for _ in said] == said
    assert not len(dispatcher)


def test_a_seed_at_the_end_of_its_range_goes_on_at_its_beginning() -> None:
    last = ask(2, sampling=Sampling(seed=2**63 - 1))
    second = play(ToyEngine(), [Planned(last)])[0].choices[1]
    assert second.text == answer(ask(1, sampling=Sampling(seed=0)))[0]


def test_the_first_of_them_ends_at_once() -> None:
    """With its slot given up before the others had theirs."""
    bias = Sampling(seed=2, temperature=3.0, logit_bias=((EOS, 9.0),))
    request = ask(9, 12, ignore_eos=False, sampling=bias)
    found = play(ToyEngine(n_slots=2), [Planned(request)])[0]
    expected = [answer(request, choice=number)[:2] for number in range(9)]
    assert [(choice.text, choice.reason) for choice in found.choices] == expected
    assert [text for text, _ in expected].count("") in range(1, 9)
