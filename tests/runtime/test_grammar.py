"""Grammars in the loop: beside other answers, in batches, and with tokens that leave no choice."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace

import jsonschema
import pytest
from msgspec import structs
from support.mixes import Planned, play, random_mix
from support.refusals import check_refusal
from support.schemas import random_schema
from support.waiting import PATIENCE_S

from edgellm.builtin.echo import EchoEngine
from edgellm.contract.engine import SlotInput
from edgellm.errors import GrammarFailed, UsageError
from edgellm.text.matcher import Matcher
from edgellm.types.grammar import Grammar
from edgellm.types.plan import Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

GREEDY = Sampling(temperature=0)
LONG_KEY = "a_name_that_leaves_no_choice_for_a_while"


class Counted(EchoEngine):
    """Keeps the batches."""

    def __init__(self, n_slots: int = 3, n_batch: int = 512) -> None:
        super().__init__(Settings(n_ctx=512, n_slots=n_slots, n_batch=n_batch))
        self.batches: list[tuple[SlotInput, ...]] = []

    def step(self, batch):  # type: ignore[no-untyped-def]
        self.batches.append(tuple(batch))
        return super().step(batch)


def requests(rng: random.Random, n: int) -> list[GenerationRequest]:
    """Half under a grammar."""
    made = []
    for _ in range(n):
        sampling = rng.choice([GREEDY, Sampling(temperature=1.5, seed=rng.randrange(99), repetition_penalty=1.1)])
        schema = random_schema(rng)
        grammar = rng.choice([None, Grammar.of_schema(schema), Grammar("choice", '["yes", "yesterday", "no"]')])
        made.append(GenerationRequest("Once upon a time", sampling, max_tokens=rng.randint(3, 60), grammar=grammar))
    return made


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow(1)) for seed in (1, 3)), 2])
def test_batched_equals_isolated(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(4):
        # One that is cancelled while its grammar is compiled has no last word.
        mix = [
            replace(planned, cancelled=None) if planned.request.grammar else planned
            for planned in random_mix(rng, requests(rng, 6))
        ]
        n_batch = rng.choice((4, 64))
        for planned, batched in zip(mix, play(Counted(rng.randint(1, 3), n_batch), mix), strict=True):
            isolated = play(Counted(1), [Planned(planned.request)])[0]
            assert batched.error is isolated.error is None
            if planned.cancelled is None:
                assert (batched.text, batched.reason) == (isolated.text, isolated.reason)


def test_what_leaves_no_choice_costs_one_step() -> None:
    schema = {
        "type": "object",
        "properties": {LONG_KEY: {"const": 1}},
        "required": [LONG_KEY],
        "additionalProperties": False,
    }
    engine = Counted(1)
    answer = play(engine, [Planned(GenerationRequest("x", GREEDY, grammar=Grammar.of_schema(schema)))])[0]

    jsonschema.validate(json.loads(answer.text), schema)
    assert answer.reason == "stop"
    assert max(len(entry.tokens) for batch in engine.batches for entry in batch) > len(LONG_KEY)
    assert answer.n_tokens == len(answer.text.encode())


def test_forced_tokens_leave_room_for_the_others() -> None:
    """A step of 4 tokens, three answers: each gets on in each step."""
    grammar = Grammar("choice", json.dumps([LONG_KEY]))
    engine = Counted(3, n_batch=4)
    planned = [Planned(GenerationRequest("abc", GREEDY, grammar=grammar)) for _ in range(3)]
    answers = play(engine, planned)

    assert [answer.text for answer in answers] == [LONG_KEY] * 3
    assert max(sum(len(entry.tokens) for entry in batch) for batch in engine.batches) <= 4


@pytest.mark.parametrize(("limit", "text"), [(4, "yest"), (9, "yesterday")])
def test_the_limit_counts_forced_tokens(limit: int, text: str) -> None:
    request = GenerationRequest("x", GREEDY, max_tokens=limit, grammar=Grammar("choice", '["yesterday"]'))
    answer = play(Counted(1), [Planned(request)])[0]
    assert (answer.text, answer.n_tokens) == (text, limit)
    assert answer.reason == ("length" if limit == 4 else "stop")


def test_a_stop_string_inside_what_is_forced_ends_the_answer() -> None:
    request = GenerationRequest("x", GREEDY, stop=("ter",), grammar=Grammar("choice", '["yesterday"]'))
    answer = play(Counted(1), [Planned(request)])[0]
    assert (answer.text, answer.reason) == ("yes", "stop")


def test_a_full_context_ends_an_answer_in_what_is_forced() -> None:
    engine = Counted(1)
    request = GenerationRequest("x" * 500, GREEDY, grammar=Grammar("choice", json.dumps([LONG_KEY])))
    answer = play(engine, [Planned(request)])[0]
    assert answer.reason == "length"
    assert answer.text == LONG_KEY[: len(answer.text)]


def test_ignoring_the_end_token_does_not_go_past_the_grammar() -> None:
    request = GenerationRequest("x", GREEDY, max_tokens=20, ignore_eos=True, grammar=Grammar("choice", '["yes"]'))
    assert play(Counted(1), [Planned(request)])[0].text == "yes"


def test_one_that_fails_costs_only_its_own_request() -> None:
    grammar = Grammar("lark", 'start: e\ne: e e | "a" | e e e')
    bad = GenerationRequest("a" * 400, Sampling(temperature=0, logit_bias=((97, 100.0),)), grammar=grammar)
    good = GenerationRequest("fine", GREEDY)
    failed, answer = play(Counted(2), [Planned(bad), Planned(good)])

    check_refusal(failed.error, GrammarFailed, varies="has [0-9]+ items")
    assert answer.text == "fine"


def test_one_that_cannot_be_used_is_refused_before_it_runs() -> None:
    engine = Counted(1)
    refused = play(engine, [Planned(GenerationRequest("x", GREEDY, grammar=Grammar("regex", "(", "regex")))])[0]
    check_refusal(refused.error, UsageError, param="regex")
    assert engine.batches == []


def test_penalties_look_back_on_what_was_forced() -> None:
    """After "aaaa", forced, a penalty on "a" makes the other choice likelier."""
    grammar = Grammar("regex", "aaaa(a|b)")
    bias = ((97, 5.0), (98, 4.0))
    plain = GenerationRequest("x", Sampling(temperature=0, logit_bias=bias), grammar=grammar)
    penalized = structs.replace(plain, sampling=structs.replace(plain.sampling, frequency_penalty=1.0))
    texts = [play(Counted(1), [Planned(request)])[0].text for request in (plain, penalized)]
    assert texts == ["aaaaa", "aaaab"]


def test_the_next_mask_is_computed_during_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that ends only when the mask is there would wait for ever if that came after it."""
    computed = threading.Semaphore(0)
    compute = Matcher.compute

    def and_tell(matcher: Matcher) -> None:
        compute(matcher)
        computed.release()

    class Waiting(Counted):
        def step(self, batch):  # type: ignore[no-untyped-def]
            if self.batches:
                assert computed.acquire(timeout=PATIENCE_S)
            return super().step(batch)

    monkeypatch.setattr(Matcher, "compute", and_tell)
    request = GenerationRequest("x", Sampling(seed=1), grammar=Grammar("regex", "[a-z]{20}"))
    engine = Waiting(1)
    answer = play(engine, [Planned(request)])[0]
    assert len(answer.text) == 20
    assert len(engine.batches) >= 20


def test_no_thread_is_left_when_a_loop_has_ended() -> None:
    before = {*threading.enumerate()}
    play(Counted(1), [Planned(GenerationRequest("x", Sampling(seed=1), grammar=Grammar("regex", "[a-z]{9}")))])
    assert {*threading.enumerate()} <= before


def test_with_logprobs_every_token_is_drawn_and_told() -> None:
    """What is forced has no row of logits, so nothing is forced where they are asked for."""
    request = GenerationRequest("x", GREEDY, grammar=Grammar("choice", '["yesterday"]'), top_logprobs=3)
    engine = Counted(1)
    answer = play(engine, [Planned(request)])[0]

    assert answer.text == "yesterday"
    assert [token.chosen.piece for token in answer.logprobs] == [bytes((byte,)) for byte in b"yesterday"]
    assert max(len(entry.tokens) for batch in engine.batches[1:] for entry in batch) == 1
