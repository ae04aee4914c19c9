"""Batched answers equal isolated ones; a step that fails costs the requests it must cost, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from mixes import Answer, Planned, play, random_mix, random_request
from toy_engine import BOS, EOS, ToyEngine, answer

from edgellm.backend import SlotInput
from edgellm.builtin.echo import EchoEngine
from edgellm.errors import BackendError, CacheFull, ContextOverflow, StepFailed, UsageError
from edgellm.plan import Settings
from edgellm.request import GenerationRequest, Sampling

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


@pytest.mark.parametrize("seed", range(10))
def test_mixes_answer_as_if_each_request_were_alone(seed: int) -> None:
    """200 mixes: shared prefixes, arrivals, cancellations, seeds, stop strings, penalties; engines of every kind."""
    rng = random.Random(seed)
    for _ in range(20):
        requests = [random_request(rng, PROMPTS, longest=40, stops=STOPS) for _ in range(6)]
        engine = ToyEngine(
            n_slots=rng.randint(1, 4), n_batch=rng.choice((4, 32, 512)), rewind=rng.choice((None, 0, 8)),
            fork_copies=rng.random() < 0.5,
        )  # fmt: skip
        mix = random_mix(rng, requests)
        for planned, found in zip(mix, play(engine, mix), strict=True):
            check_answer(planned, found)


def check_answer(planned: Planned, found: Answer) -> None:
    text, reason, n_tokens = answer(planned.request)
    assert found.error is None
    assert found.usage is not None
    assert found.usage.cached_tokens < found.usage.prompt_tokens
    if found.reason == "cancelled":
        assert planned.cancelled is not None
        assert text.startswith(found.text)
        assert found.usage.completion_tokens <= n_tokens
    else:
        assert (found.text, found.reason, found.usage.completion_tokens) == (text, reason, n_tokens)


def one(engine: ToyEngine, request: GenerationRequest) -> Answer:
    return play(engine, [Planned(request)])[0]


def test_the_echo_engine_says_each_prompt_back_from_a_batch() -> None:
    prompts = [f"{STEM[:30]}{n} é🙂 " * (n % 3 + 1) for n in range(12)]
    mix = [Planned(GenerationRequest(prompt, GREEDY), arrives=n) for n, prompt in enumerate(prompts)]
    found = play(EchoEngine(Settings(n_ctx=512, n_slots=3, n_batch=64)), mix)
    assert [a.text for a in found] == prompts
    assert {a.reason for a in found} == {"stop"}


