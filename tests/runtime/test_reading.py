"""Thoughts and calls in the loop: told from text as they come, kept to a budget, and free of the grammar."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from msgspec import structs
from support.marked_engine import MarkedEngine
from support.mixes import Answer, Planned, play, random_mix

from edgellm.runtime import loop
from edgellm.runtime.request_state import RequestState
from edgellm.text.matcher import GrammarCompiler, Matcher
from edgellm.types.grammar import Grammar
from edgellm.types.markup import JsonCalls, Markup, Reading, ReasoningMarkup
from edgellm.types.message import Tool
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

GREEDY = Sampling(temperature=0)
THINKS = Markup(reasoning=ReasoningMarkup("<think>", "</think>"))
READING = Reading(THINKS)
OPENED = Reading(THINKS, opened="<think>")


def ask(says: str, reading: Reading | None = READING, **kind: object) -> GenerationRequest:
    return structs.replace(GenerationRequest(says, GREEDY, reading=reading), **kind)


def answer(says: str, reading: Reading | None = READING, **kind: object) -> Answer:
    return play(MarkedEngine(), [Planned(ask(says, reading, **kind))])[0]


def test_markers_that_are_control_tokens_reach_the_reader() -> None:
    found = answer("<think>why é</think>because<other> 🙂")
    assert found.parts == [("reasoning", 0, "why é"), ("text", 0, "because 🙂")]
    assert found.usage is not None
    assert found.usage.reasoning_tokens == len("<>why é".encode())
    assert found.usage.completion_tokens == found.n_tokens == len("<>why é".encode()) + len("because< 🙂".encode())


def test_without_a_reading_all_of_it_is_text() -> None:
    found = answer("<think>why</think>because", reading=None)
    assert found.parts == [("text", 0, "whybecause")]
    assert found.usage is not None
    assert found.usage.reasoning_tokens == 0


@pytest.mark.parametrize("interval_s", [0.0, 3600.0])
def test_parts_of_one_flush_stay_in_order(monkeypatch: pytest.MonkeyPatch, interval_s: float) -> None:
    monkeypatch.setattr(loop, "FLUSH_INTERVAL_S", interval_s)
    found = answer("<think>a</think>b", top_logprobs=0)
    assert found.parts == [("reasoning", 0, "a"), ("text", 0, "b")]
    assert [one.chosen.token for one in found.logprobs] == [257, ord("a"), 258, ord("b")]


@pytest.mark.parametrize(
    ("says", "parts"),
    [
        ("<think>stop</think>a stop b", [("reasoning", 0, "stop"), ("text", 0, "a ")]),
        ("<think>st</think>op", [("reasoning", 0, "st"), ("text", 0, "op")]),
        ("a sto", [("text", 0, "a sto")]),
    ],
)
def test_stop_strings_are_looked_for_in_text_alone(says: str, parts: list[object]) -> None:
    found = answer(says, stop=("stop",))
    assert found.parts == parts
    assert found.reason == "stop"


CALLS = Reading(Markup(THINKS.reasoning, JsonCalls("<tool_call>", "</tool_call>")), tools=(Tool("look"), Tool("take")))
CALL = '<tool_call>{"name": "look", "arguments": {"at": "é stop"}}</tool_call>'


class TestCalls:
    def test_they_are_told_by_name_and_arguments(self) -> None:
        found = answer("<think>hm</think>Let me see." + CALL + CALL.replace("look", "take"), CALLS, stop=("stop",))
        assert found.parts == [
            ("reasoning", 0, "hm"),
            ("text", 0, "Let me see."),
            ("call_name", 0, "look"),
            ("call_arguments", 0, '{"at": "é stop"}'),
            ("call_name", 1, "take"),
            ("call_arguments", 1, '{"at": "é stop"}'),
        ]
        assert found.reason == "tool_calls"

    def test_without_one_the_answer_stops_as_ever(self) -> None:
        assert answer("Nothing to do.", CALLS).reason == "stop"

    def test_one_that_is_cut_is_none_that_was_made(self) -> None:
        found = answer(CALL, CALLS, max_tokens=len(CALL) - 50)
        assert found.reason == "length"

    def test_of_several_choices_each_has_its_own(self) -> None:
        found = play(MarkedEngine(2), [Planned(ask(CALL, CALLS, n=3))])[0]
        assert [choice.reason for choice in found.choices] == ["tool_calls"] * 3
        assert all(choice.parts[0] == ("call_name", 0, "look") for choice in found.choices)


class TestBudget:
    def test_a_thought_that_has_used_it_up_is_ended_and_answered(self) -> None:
        found = answer("<think>" + "a" * 30 + "</think>", reasoning_budget=6, max_tokens=20)
        assert found.parts == [("reasoning", 0, "aaaaa"), ("text", 0, "a" * 13)]
        assert found.usage is not None
        assert found.usage.reasoning_tokens == 7

    def test_a_shorter_thought_is_left_alone(self) -> None:
        found = answer("<think>aaa</think>bb", reasoning_budget=6)
        assert found.parts == [("reasoning", 0, "aaa"), ("text", 0, "bb")]

    def test_a_character_is_not_cut_in_half(self) -> None:
        found = answer("<think>a🙂🙂🙂</think>", reasoning_budget=4, max_tokens=10)
        assert found.parts[0] == ("reasoning", 0, "a🙂")

    def test_none_at_all_ends_what_the_template_opened(self) -> None:
        found = answer("hello", OPENED, reasoning_budget=0)
        assert found.parts == [("text", 0, "ello")], "the end of the thought stands in the first one's place"
        assert found.usage is not None
        assert found.usage.reasoning_tokens == 1

    def test_its_end_is_put_in_at_once(self) -> None:
        """As one entry with the token that used it up; a marker of many tokens costs no steps."""
        reading = Reading(Markup(reasoning=ReasoningMarkup("<think>", "\nSo much for that.</think>\n")))
        engine = MarkedEngine()
        play(engine, [Planned(ask("<think>" + "a" * 60, reading, reasoning_budget=4, max_tokens=30))])
        assert max(len(entry.tokens) for batch in engine.steps[1:] for entry in batch) == 1 + 20

    def test_with_logprobs_each_token_of_it_has_its_own(self) -> None:
        reading = Reading(Markup(reasoning=ReasoningMarkup("<think>", "!</think>")))
        found = answer("<think>" + "a" * 9, reading, reasoning_budget=3, max_tokens=8, top_logprobs=1)
        assert [one.chosen.token for one in found.logprobs] == [257, 97, 97, ord("!"), 258, 97, 97, 97]
        assert found.parts == [("reasoning", 0, "aa"), ("text", 0, "aaa")]

    def test_a_second_thought_has_no_budget_of_its_own(self) -> None:
        found = answer("<think>aa?<think>?bbb", reasoning_budget=3)
        assert found.parts == [("reasoning", 0, "aa"), ("text", 0, "bbb")]

    def test_more_tokens_are_not_taken_than_were_asked_for(self) -> None:
        reading = Reading(Markup(reasoning=ReasoningMarkup("<think>", "0123456789</think>")))
        found = answer("<think>" + "a" * 30, reading, reasoning_budget=4, max_tokens=8)
        assert (found.reason, found.n_tokens) == ("length", 8)


class TestGrammar:
    grammar = Grammar("choice", json.dumps(["yes", "no", "never"]))

    @pytest.fixture(autouse=True)
    def _needs_the_library(self) -> None:
        pytest.importorskip("llguidance")

    @pytest.mark.parametrize("top_logprobs", [None, 0])
    def test_it_begins_behind_a_thought_that_the_template_opened(self, top_logprobs: int | None) -> None:
        found = answer("hm, yes or no?</think>....", OPENED, grammar=self.grammar, top_logprobs=top_logprobs)
        assert found.parts[0] == ("reasoning", 0, "hm, yes or no?")
        assert found.text in ("yes", "no", "never")
        assert found.reason == "stop"

    def test_a_model_may_open_a_thought_itself(self) -> None:
        found = answer("<think>hm</think>....", thinking=True, grammar=self.grammar)
        assert found.parts[0] == ("reasoning", 0, "hm")
        assert found.text in ("yes", "no", "never")

    def test_a_marker_of_many_tokens_is_put_in_once(self) -> None:
        reading = Reading(Markup(reasoning=ReasoningMarkup("<other>I think<think>", "</think>")))
        engine = MarkedEngine()
        request = ask("<other>12345678hm</think>....", reading, thinking=True, grammar=self.grammar)
        found = play(engine, [Planned(request)])[0]
        assert found.parts[0] == ("reasoning", 0, "hm")
        assert [len(entry.tokens) for batch in engine.steps[1:2] for entry in batch] == [9]

    def test_what_the_last_token_of_a_thought_says_beyond_it_is_left_out(self) -> None:
        """The grammar does not know of it, and the answer would not be by it."""
        state = RequestState(1, ask("", OPENED, grammar=self.grammar), [1], 9, matcher=matcher(self.grammar))
        state.take(97, b"a</think>{")
        assert [(delta.kind, delta.text) for delta in state.flush()] == [("reasoning", "a")]
        assert state.gate is not None

    @pytest.mark.parametrize(
        "kind", [{"thinking": False}, {"thinking": True, "reasoning_budget": 0}, {"thinking": True, "reading": None}]
    )
    def test_it_may_not_where_it_is_not_to_think(self, kind: dict[str, object]) -> None:
        found = answer("<think>hm</think>....", **{"reading": READING, "grammar": self.grammar, **kind})  # type: ignore[arg-type]
        assert [kind for kind, _, _ in found.parts] == ["text"]
        assert found.text in ("yes", "no", "never")

    def test_it_begins_behind_a_thought_that_was_ended(self) -> None:
        found = answer("<think>" + "a" * 50, thinking=True, reasoning_budget=5, grammar=self.grammar)
        assert found.parts[0] == ("reasoning", 0, "aaaa")
        assert found.text in ("yes", "no", "never")


def matcher(grammar: Grammar) -> Matcher:
    engine = MarkedEngine()
    return GrammarCompiler(engine.tokenizer, engine.info).matcher(grammar)


def requests(rng: random.Random, n: int) -> list[GenerationRequest]:
    """Thoughts, text, markers in wrong places, characters of many bytes; under grammars, budgets, stops, logprobs."""
    words = (CALL, "<think>", "</think>", "a", "stop", "é🙂", " ", "<other>", "{", "so it is")
    made = []
    for _ in range(n):
        request = ask(
            rng.choice(("", "<think>")) + "".join(rng.choices(words, k=rng.randint(1, 12))),
            rng.choice((READING, CALLS, OPENED, None)),
            sampling=rng.choice((GREEDY, Sampling(temperature=1.0, seed=rng.randrange(99)))),
            max_tokens=rng.randint(1, 60),
            stop=rng.choice(((), ("stop",), ("it", "a"))),
            grammar=rng.choice((None, None, Grammar("choice", '["yes", "yesterday", "no"]'))),
            reasoning_budget=rng.choice((None, 0, 3, 10)),
            top_logprobs=rng.choice((None, None, 0, 2)),
            n=rng.choice((1, 1, 1, 3)),
            thinking=rng.random() < 0.5,
        )
        made.append(request)
    return made


@pytest.mark.parametrize("seed", range(6))
def test_batched_equals_isolated(seed: int) -> None:
    pytest.importorskip("llguidance")
    rng = random.Random(seed)
    for _ in range(5):
        # One that is cancelled while its grammar is compiled has no last word.
        mix = [
            replace(planned, cancelled=None) if planned.request.grammar else planned
            for planned in random_mix(rng, requests(rng, 6))
        ]
        for planned, batched in zip(mix, play(MarkedEngine(rng.randint(1, 3), rng.choice((4, 64))), mix), strict=True):
            if planned.cancelled is not None:
                continue
            isolated = play(MarkedEngine(4), [Planned(planned.request)])[0]
            assert batched.error is isolated.error is None
            for one, other in zip(batched.choices, isolated.choices, strict=True):
                assert (one.parts, one.reason, one.logprobs) == (other.parts, other.reason, other.logprobs)
                assert one.usage is not None
                assert other.usage is not None
                assert one.usage.reasoning_tokens == other.usage.reasoning_tokens
                if planned.request.top_logprobs is not None:
                    assert len(one.logprobs) == one.usage.completion_tokens
