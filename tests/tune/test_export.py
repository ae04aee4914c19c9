"""What a tuner learned, served: llama.cpp computes with our file, or with the merged model, what the tuner computed."""

import numpy as np
import pytest
from edgellm_gguf import library
from support.toy_llama import TOKENS, native_logits, toy_weights, write_toy
from support.tuning import stir, trainer

from edgellm.adaptation import adapter_file, merge, peft_export, peft_folder
from edgellm.adaptation.learned import learned
from edgellm.contract.tuner import Batch
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf.reader import read_model
from edgellm.formats.safetensors.writer import write_safetensors
from edgellm.types.tuning import METHODS

pytestmark = [
    pytest.mark.skipif(bool(library.missing()), reason="model: llama-cpp-python is not installed"),
    pytest.mark.slow(40),
]


def row():
    tokens = np.array([TOKENS], np.int32)
    places = np.arange(len(TOKENS), dtype=np.int32)[None]
    supervised = places > 0
    return Batch(tokens, supervised, places, np.ones_like(tokens))


def loss_of(logits):
    """Nats of all tokens but the first."""
    rows = logits[:-1] - logits[:-1].max(-1, keepdims=True)
    log_probs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    return -float(log_probs[np.arange(len(TOKENS) - 1), list(TOKENS[1:])].sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tied", [False, True], ids=["two-tables", "one-table"])
def test_what_is_served_is_what_was_learned(method, tied, tmp_path):
    base = write_toy(tmp_path / "base.gguf", toy_weights(tied=tied))
    model = read_model(base)
    tuned = trainer(base, method=method, rank=4, alpha=6.0, delta_start=1, quantized=False)
    before = tuned.loss(row())
    for _ in range(3):
        tuned.step([row()], 0.01)
        stir(tuned, spread=0.02)
    write_safetensors(tmp_path / "factors", {name: np.float32(array) for name, array in tuned.factors().items()})

    lora = learned(tmp_path / "factors", tuned.settings, model)

    if method in ("dora", "full"):
        merged = tmp_path / "merged.gguf"
        merged.write_bytes(base.read_bytes())
        merge.add(merged, lora)
        jobs = [(merged, [])]
    else:
        adapter_file.write(tmp_path / "x.gguf", lora)
        gguf_adapter.check(gguf_adapter.read(tmp_path / "x.gguf"), model)
        peft_export.write(tmp_path / "peft", lora, model)
        adapter_file.write(tmp_path / "y.gguf", peft_folder.load(tmp_path / "peft", model))
        assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "y.gguf").read_bytes()
        jobs = [(base, [(tmp_path / "x.gguf", 1.0)])]
    untouched, served = native_logits([(base, []), *jobs])
    assert loss_of(untouched) == pytest.approx(before, rel=1e-5)
    assert loss_of(served) == pytest.approx(tuned.loss(row()), rel=1e-5)
    assert abs(loss_of(served) - before) > 0.1
