"""An answer that goes on behind its first tokens, as another process drew them, is the answer that it was there."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial

import pytest
from msgspec import structs
from support.marked_engine import MarkedEngine
from support.mixes import Answer, Planned, play, random_request
from support.refusals import check_refusal, refuses
from support.schemas import random_schema
from support.toy_engine import EOS, VOCAB, ToyEngine

from edgellm.builtin.echo import EchoEngine
from edgellm.contract.engine import Engine
from edgellm.errors import GrammarFailed, UsageError
from edgellm.types.continuation import Continuation
from edgellm.types.grammar import Grammar
from edgellm.types.markup import JsonCalls, Markup, Reading, ReasoningMarkup
from edgellm.types.message import Tool
from edgellm.types.plan import Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

GREEDY = Sampling(temperature=0)
PROMPTS = ("Once upon a time", "é🙂", "x")
STOPS = ("a", "ab", "é", "🙂", "ba ab", "abc.")
THINKS = Markup(ReasoningMarkup("<think>", "</think>"), JsonCalls("<tool_call>", "</tool_call>"))
READING = Reading(THINKS, tools=(Tool("look"),))
CALL = '<tool_call>{"name": "look", "arguments": {"at": "é"}}</tool_call>'
CHOICE = Grammar("choice", json.dumps(["yes", "yesterday", "no"]))


class Echo(EchoEngine):
    def __init__(self, n_ctx: int = 512) -> None:
        super().__init__(Settings(n_ctx=n_ctx, n_slots=1, n_batch=8))


def begun(request: GenerationRequest, *tokens: int, seed: int | None = None) -> GenerationRequest:
    return structs.replace(request, continuation=Continuation(tokens, seed))


def answer(engine: Engine, request: GenerationRequest) -> Answer:
    (said,) = play(engine, [Planned(request)])
    return said


def facts(said: Answer) -> tuple[object, ...]:
    return said.error, said.parts, said.reason, said.usage


def check(make: Callable[[], Engine], request: GenerationRequest) -> Answer:
    """It is the same after each of its tokens, and as it is where nobody asks for their ids."""
    whole = answer(make(), begun(request))
    assert whole.error is None
    assert facts(answer(make(), request)) == facts(whole)
    for n in range(len(whole.tokens) + 1):
        said = answer(make(), begun(request, *whole.tokens[:n]))
        assert facts(said) == facts(whole), n
        # The last ones may say nothing, and are then told with what came before, or not at all.
        n_both = min(len(said.tokens), len(whole.tokens))
        assert said.tokens[:n_both] == whole.tokens[:n_both]
        assert n_both >= n
    return whole


@pytest.mark.parametrize("seed", range(3))
def test_greedy_and_seeded_with_stop_strings_and_penalties(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        check(ToyEngine, random_request(rng, PROMPTS, longest=24, stops=STOPS))


def test_what_is_drawn_at_temperature_one_has_the_same_luck() -> None:
    """One random number for each token that was drawn: the texts of other seeds are others."""
    texts = {check(ToyEngine, GenerationRequest("x", Sampling(temperature=1.0, seed=n), max_tokens=16)).text
             for n in range(6)}  # fmt: skip
    assert len(texts) == 6


@pytest.mark.parametrize("seed", range(2))
def test_under_grammars(seed: int) -> None:
    """What a grammar leaves no choice about was not drawn, and takes no random number."""
    pytest.importorskip("llguidance")
    rng = random.Random(seed)
    for _ in range(3):
        for grammar in (Grammar.of_schema(random_schema(rng)), CHOICE, Grammar("regex", "[ab]{3}cdef[gh]{3}")):
            sampling = rng.choice([GREEDY, Sampling(temperature=1.5, seed=rng.randrange(99), frequency_penalty=0.5)])
            request = GenerationRequest("Once", sampling, max_tokens=rng.randint(3, 40), grammar=grammar)
            check(Echo, request)


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest("<think>why é</think>because<other> 🙂", GREEDY, reading=READING),
        GenerationRequest("<think>hm</think>Let me see." + CALL + CALL, GREEDY, reading=READING, stop=("stop",)),
        GenerationRequest("<think>" + "a🙂" * 9, GREEDY, reading=READING, reasoning_budget=6, max_tokens=30),
        GenerationRequest("hello", GREEDY, reading=Reading(THINKS, opened="<think>"), reasoning_budget=0),
        GenerationRequest("<think>" + "a" * 9, GREEDY, reasoning_budget=4, max_tokens=30,
                          reading=Reading(Markup(reasoning=ReasoningMarkup("<think>", "\nEnough.</think>\n")))),
    ],
)  # fmt: skip
def test_thoughts_calls_and_budgets(request_: GenerationRequest) -> None:
    assert len(check(MarkedEngine, request_).parts) >= 1


@pytest.mark.parametrize("opened", ["", "<think>"])
def test_a_thought_before_what_a_grammar_says(opened: str) -> None:
    pytest.importorskip("llguidance")
    says = f"{'' if opened else '<think>'}hm, yes or no?</think>...."
    sampling = Sampling(temperature=1.0, seed=5)
    reading = Reading(THINKS, opened=opened)
    request = GenerationRequest(says, sampling, reading=reading, thinking=True, grammar=CHOICE, max_tokens=60)
    assert check(MarkedEngine, request).parts[0] == ("reasoning", 0, "hm, yes or no?")


@pytest.mark.parametrize("grammar", [None, Grammar("choice", json.dumps(["a_name_that_leaves_no_choice"]))])
def test_a_full_context_ends_it_at_the_same_token(grammar: Grammar | None) -> None:
    if grammar is not None:
        pytest.importorskip("llguidance")
    request = GenerationRequest("x" * 14, GREEDY, ignore_eos=True, grammar=grammar)
    assert check(partial(Echo, 24), request).reason == "length"


def test_its_tokens_are_read_behind_the_prompt_in_few_steps() -> None:
    """Few at a time, and the prompt as without them, so that kernels round as they did."""
    engine, request = ToyEngine(), GenerationRequest("Once", Sampling(seed=1), max_tokens=43, ignore_eos=True)
    whole = answer(ToyEngine(), begun(request))
    said = answer(engine, begun(request, *whole.tokens[:40]))

    assert [sum(len(entry.tokens) for entry in step) for step in engine.steps] == [1 + len("Once"), 32, 8, 1, 1]
    assert said.usage == whole.usage
    assert said.timings is not None
    assert said.timings.decoded(43) == 2


def test_it_runs_beside_others() -> None:
    rng = random.Random(1)
    requests = [random_request(rng, PROMPTS, longest=20, stops=STOPS) for _ in range(12)]
    wholes = [answer(ToyEngine(), begun(request)) for request in requests]
    halves = [begun(request, *whole.tokens[: len(whole.tokens) // 2])
              for request, whole in zip(requests, wholes, strict=True)]  # fmt: skip
    mixed = play(ToyEngine(n_slots=3, n_batch=8), [Planned(half, at) for at, half in enumerate(halves)])

    for said, whole in zip(mixed, wholes, strict=True):
        assert (said.parts, said.reason) == (whole.parts, whole.reason)


def test_a_seed_of_its_own_is_for_requests_without_one_and_is_told_nowhere() -> None:
    request = GenerationRequest("x", Sampling(temperature=1.0), max_tokens=12)
    seeded = structs.replace(request, sampling=structs.replace(request.sampling, seed=7))
    said = answer(ToyEngine(), begun(request, seed=7))

    assert said.text == answer(ToyEngine(), seeded).text
    assert answer(ToyEngine(), begun(seeded, seed=8)).text == said.text
    assert said.timings is not None
    assert all(part.values.seed is None for part in said.timings.sampling)


@pytest.mark.parametrize("tokens", [(VOCAB,), (2, 3, 10**6)])
def test_tokens_that_do_not_exist_are_refused(tokens: tuple[int, ...]) -> None:
    refused = answer(ToyEngine(), begun(GenerationRequest("x", GREEDY), *tokens))
    check_refusal(refused.error, UsageError, param="continuation")


@pytest.mark.parametrize("tokens", [(2, EOS, 2), (2, 2, 2, 2), (13, 2, 2)])
def test_no_answer_begins_so(tokens: tuple[int, ...]) -> None:
    """It would have ended before: at the model's own end, at its limit, at a stop string."""
    refused = answer(ToyEngine(), begun(GenerationRequest("x", GREEDY, max_tokens=3, stop=("c",)), *tokens))
    check_refusal(refused.error, UsageError, param="continuation")


def test_what_a_grammar_forbids_is_refused() -> None:
    pytest.importorskip("llguidance")
    engine = Echo()
    request = GenerationRequest("x", GREEDY, grammar=CHOICE)
    refused = answer(engine, begun(request, *b"maybe"))
    check_refusal(refused.error, GrammarFailed)
    assert answer(engine, request).text in ("yes", "yesterday", "no")


@pytest.mark.parametrize("more", [{"n": 2}, {"top_logprobs": 0}, {"echo": True}])
def test_only_one_answer_without_logprobs_goes_on(more: dict[str, object]) -> None:
    with refuses(UsageError, param="continuation"):
        begun(structs.replace(GenerationRequest("x"), **more))
