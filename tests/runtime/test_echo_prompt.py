"""The prompt told before its answers, with the logprobs of its tokens."""

from __future__ import annotations

import queue
import random
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from support.mixes import Planned, play
from support.toy_engine import BOS, PIECES, ToyEngine, answer, logits_after

from edgellm.errors import UsageError
from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.types.event import Delta, Done
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

PROMPT = "Once upon a time there was a small model. " * 2


def ask(prompt: str = PROMPT, **kind: object) -> GenerationRequest:
    request = GenerationRequest(
        prompt, Sampling(temperature=0), max_tokens=5, ignore_eos=True, echo=True, top_logprobs=2
    )
    return structs.replace(request, **kind)


def events(engine: ToyEngine, request: GenerationRequest) -> list[Delta | Done]:
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    heard: list[wire.Up] = []
    inbox.put(wire.Submit(1, request))
    inbox.put(wire.Stop(drain=True))
    Loop(engine, inbox, heard.extend).run()
    return [message.event for message in heard if isinstance(message, wire.Reply)]  # type: ignore[misc]


def told(engine: ToyEngine, request: GenerationRequest) -> tuple[str, list[int], list[float]]:
    """Text, tokens and logprobs of the prompt, which come before everything else."""
    said = events(engine, request)
    n_prompt = sum(isinstance(event, Delta) and event.kind == "prompt" for event in said)
    deltas = [event for event in said[:n_prompt] if isinstance(event, Delta)]
    assert all(delta.kind == "prompt" and delta.n_tokens == 0 for delta in deltas)
    tokens = [one for delta in deltas for one in delta.logprobs]
    return (
        "".join(delta.text for delta in deltas),
        [one.chosen.token for one in tokens],
        [one.chosen.logprob for one in tokens],
    )


def reference(prompt: list[int]) -> list[float]:
    rows = [logits_after(prompt[:end]).astype(np.float64) for end in range(1, len(prompt))]
    pairs = zip(rows, prompt[1:], strict=True)
    return [0.0, *(float(row[token] - np.log(np.exp(row).sum())) for row, token in pairs)]


@pytest.mark.parametrize(("n_batch", "max_logits"), [(512, 512), (32, 7), (4, 4), (512, 3)])
def test_logprobs_are_those_of_the_softmax_however_many_rows_a_step_has(n_batch: int, max_logits: int) -> None:
    engine = ToyEngine(n_batch=n_batch)
    engine.info = replace(engine.info, max_logits=max_logits)
    text, tokens, logprobs = told(engine, ask())

    assert text == PROMPT
    assert tokens == engine.tokenizer.encode(PROMPT, add_special=True, parse_special=True)
    assert logprobs == pytest.approx(reference(tokens), abs=1e-5)
    assert max(sum(entry.n_logits for entry in batch) for batch in engine.steps) <= max_logits


def test_a_first_token_that_says_nothing_yet_is_none_of_the_prompt() -> None:
    half = ask(sampling=Sampling(temperature=0, logit_bias=((PIECES.index(b"\xc3"), 100.0),)), max_tokens=1)
    assert len(told(ToyEngine(), half)[1]) == len(PROMPT) + 1


def test_what_slots_hold_is_computed_again() -> None:
    """They hold no logits."""
    engine = ToyEngine()
    found = play(engine, [Planned(ask()), Planned(ask(), 60)])
    assert found[0].logprobs == found[1].logprobs
    assert found[1].usage is not None
    assert found[1].usage.cached_tokens == 0


def test_the_answer_is_what_it_is_without() -> None:
    plain = answer(ask(echo=False, top_logprobs=None))
    assert play(ToyEngine(), [Planned(ask())])[0].parts == [("prompt", 0, PROMPT), ("text", 0, plain[0])]


def test_without_logprobs_a_prefix_in_a_slot_is_used() -> None:
    engine = ToyEngine()
    found = play(engine, [Planned(ask()), Planned(ask(top_logprobs=None), 60)])[1]
    assert found.parts[0] == ("prompt", 0, PROMPT)
    assert found.usage is not None
    assert found.usage.cached_tokens == len(PROMPT)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("top_logprobs", [None, 1])
def test_no_tokens_may_be_asked_for(n: int, top_logprobs: int | None) -> None:
    said = events(ToyEngine(n_slots=2), ask(max_tokens=0, n=n, top_logprobs=top_logprobs))
    ends = [event for event in said if isinstance(event, Done)]
    assert [(end.finish_reason, end.usage.completion_tokens, end.n_open) for end in ends] == [
        ("length", 0, left) for left in reversed(range(n))
    ]
    assert {event.kind for event in said if isinstance(event, Delta)} == {"prompt"}


def test_without_echo_one_at_least_is() -> None:
    with pytest.raises(UsageError) as refusal:
        ask(max_tokens=0, echo=False)
    assert refusal.value.param == "max_tokens"


def test_several_answers_have_one_prompt() -> None:
    engine = ToyEngine(n_slots=2)
    found = play(engine, [Planned(ask(n=3))])[0]
    plain = answer(ask(echo=False, top_logprobs=None))[0]
    assert [choice.parts for choice in found.choices] == [
        [("prompt", 0, PROMPT), ("text", 0, plain)], [("text", 0, plain)], [("text", 0, plain)],
    ]  # fmt: skip
    assert [len(choice.logprobs) for choice in found.choices] == [len(PROMPT) + 1 + 5, 5, 5]


def test_a_prompt_of_tokens_is_told_as_their_text() -> None:
    found = play(ToyEngine(), [Planned(ask(prompt=(BOS, 2, 3, 12), max_tokens=0))])[0]  # type: ignore[arg-type]
    assert found.parts == [("prompt", 0, "abé")]
    assert [one.chosen.piece for one in found.logprobs] == [b"", b"a", b"b", "é".encode()]


@pytest.mark.parametrize("seed", range(4))
def test_batched_equals_isolated(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(5):
        mix = [
            Planned(
                ask(
                    PROMPT[: rng.randint(1, 60)],
                    echo=rng.random() < 0.6,
                    top_logprobs=rng.choice((None, 0, 2)),
                    max_tokens=rng.randint(1, 20),
                    n=rng.choice((1, 2)),
                    sampling=Sampling(seed=rng.randrange(99)),
                ),
                rng.randint(0, 12),
            )
            for _ in range(6)
        ]
        engine = ToyEngine(n_slots=rng.randint(1, 3), n_batch=rng.choice((4, 16, 512)))
        engine.info = replace(engine.info, max_logits=rng.randint(3, 9))
        for planned, batched in zip(mix, play(engine, mix), strict=True):
            isolated = play(ToyEngine(n_slots=2), [Planned(planned.request)])[0]
            for one, other in zip(batched.choices, isolated.choices, strict=True):
                assert (one.parts, one.reason, one.logprobs) == (other.parts, other.reason, other.logprobs)
