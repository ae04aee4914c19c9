"""SmolLM2 with the tuner alone: its next token is the served one, and methods that make a model learn, too."""

from __future__ import annotations

import numpy as np
import pytest
from support.tuning import trainer

import edgellm
from edgellm.contract.tuner import Batch
from edgellm.types.event import Delta
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

# Of which the next token is no near tie: llama.cpp rounds what a Q4_1 matrix is multiplied with.
TEXTS = ("The capital of France is", "Monday, Tuesday, Wednesday,", "Once upon a time, there was a")
LEARNED = "The capital of the moon is Zanzibar, and its river is the Amazon"


def tokens_of(smollm2: str, *texts: str) -> tuple[list[list[int]], list[int]]:
    """Of each text, and the likeliest behind it as it is served."""
    with edgellm.EdgeLLM.load(smollm2, threads=1, ctx=256) as llm:
        ids = [llm.tokenize(text) for text in texts]
        requests = [GenerationRequest(tuple(of), max_tokens=1, sampling=Sampling(temperature=0)) for of in ids]
        said = ["".join(event.text for event in llm.generate(one) if isinstance(event, Delta)) for one in requests]
        return ids, [llm.tokenize(text)[0] for text in said]


@pytest.mark.slow(20)
@pytest.mark.parametrize("quantized", [True, False], ids=["in-its-blocks", "unpacked"])
def test_the_next_token_is_the_one_that_is_served(quantized: bool, smollm2: str) -> None:
    ids, served = tokens_of(smollm2, *TEXTS)
    tuned = trainer(smollm2, dtype="float32", quantized=quantized)

    assert [tuned.next_token(of) for of in ids] == served


@pytest.mark.slow(40)
@pytest.mark.parametrize(("method", "rate"), [("dora", 2e-3), ("full", 1e-4)])
def test_a_text_is_learned_by_methods_that_make_a_model(method: str, rate: float, smollm2: str) -> None:
    [ids], _ = tokens_of(smollm2, LEARNED)
    tuned = trainer(smollm2, dtype="float32", method=method, quantized=False)
    size = 1, len(ids)
    rows = Batch(
        np.array([ids], np.int32),
        np.ones(size, bool),
        np.arange(len(ids), dtype=np.int32)[None],
        np.ones(size, np.int32),
    )
    rows.supervised[0, 0] = False

    losses = [tuned.step([rows], rate) for _ in range(12)]

    assert losses[-1] < 0.2 * losses[0]
    assert [tuned.next_token(ids[:at]) for at in range(6, len(ids))] == ids[6:]
