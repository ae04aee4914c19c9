"""The same TQ2_0 file on llama.cpp and here, with an activation scale for 256 as llama.cpp has: the same logits.

What differs: llama.cpp rounds queries to half precision and, with flash attention, sums values in it; and a rounding
that falls the other way changes an activation by a step (test_engine.py). The model is random and its head is not its
embedding, so the largest logits of a position lie close together: near ties are shown, and must be as close as that.
"""

from __future__ import annotations

import numpy as np
import pytest
from bitnet.models import Tiny, engine_of, settings_of
from bitnet.packed import library

from edgellm.contract.engine import SlotInput
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.writer import Encoded
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan

pytestmark = pytest.mark.model

STEPS = 64
TEXT = "Once upon a time there was a little boat that wanted to see the sea."


# Without beta_fast and beta_slow: llama.cpp does not read these two keys of a llama.
YARN = {
    "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
    "rope.scaling.attn_factor": 1.1,
}  # fmt: skip
LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 3.0}


@pytest.fixture(
    scope="module",
    params=[
        (False, {}),
        *(pytest.param((True, keys), marks=pytest.mark.slow(6)) for keys in ({}, YARN, LINEAR)),
    ],
    ids=["one scale", "block scales", "yarn", "linear"],
)
def path(request, smollm2, tmp_path_factory):
    """A random ternary llama with SmolLM2's vocabulary."""
    varying, added = request.param
    keys = reader.read_key_bytes(reader.read_header(smollm2))
    vocabulary = {key: Encoded(data) for key, data in keys.items() if key.startswith("tokenizer.")}
    model = Tiny(
        "llama", ternary="TQ2_0", varying=varying, head="Q6_K", tied=False, layers=4, hidden=256, ffn=768,
        heads=8, kv_heads=4, head_dim=32, vocab=49152, vocabulary=vocabulary, keys={"vocab_size": 49152, **added},
    )  # fmt: skip
    return model.write(tmp_path_factory.mktemp("parity") / "tq2_0.gguf")


def rows_of(engine, tokens, n_past=0):
    return [engine.step([SlotInput(0, n_past + i, (token,), 1)])[0][0].copy() for i, token in enumerate(tokens)]


def test_logits_and_greedy_tokens_are_llama_cpps(path, capsys):
    library()
    llama_engine = pytest.importorskip("edgellm_gguf.engine", reason="compiler: edgellm-gguf is not installed")
    settings = settings_of(n_ctx=256, n_slots=1)
    theirs = llama_engine.LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (str(path),), "TQ2_0"), settings))
    try:
        prompt = theirs.tokenizer.encode(TEXT, add_special=False, parse_special=False)
        with engine_of(path, settings, act_block=256) as ours:
            one, other = rows_of(ours, prompt), rows_of(theirs, prompt)
            for step in range(STEPS - 1):
                token = int(one[-1].argmax())
                one += rows_of(ours, [token], len(prompt) + step)
                other += rows_of(theirs, [token], len(prompt) + step)
    finally:
        theirs.close()
    one, other = np.array(one), np.array(other)
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    ties = near_ties(one[-STEPS:], other[-STEPS:])
    with capsys.disabled():
        print(
            f"\nllama.cpp: least cosine {cosines.min():.7f} over {len(cosines)} positions; near ties: {ties or 'none'}"
        )
    assert cosines.min() >= 0.9999
    assert len(ties) <= STEPS // 16
    assert all(gap <= 0.03 for *_, gap in ties), ties


def near_ties(one, other):
    """(step, token here, token there, what lies between them as a share of the logits' deviation)."""
    found = []
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        here, there = int(a.argmax()), int(b.argmax())
        if here != there:
            found.append((step, here, there, round(float((a[here] - a[there]) / a.std()), 4)))
    return found
