"""Converted decoders compute what their GGUF files do: against a forward pass in numpy, and against llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest
from edgellm_onnx.convert import convert
from support.decoder_forward import Forward
from support.gguf_decoders import FAMILIES, Decoder
from support.onnx_session import Session

from edgellm.catalog.identify import identify
from edgellm.contract.converter import Conversion
from edgellm.contract.engine import SlotInput
from edgellm.contract.manager import Plugins
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

TOKENS = np.random.default_rng(5).integers(0, 256, 21).tolist()


def converted(path, out, **asked):
    convert(Conversion(identify(str(path)), out, "onnx", **asked), lambda done, total, what: None)
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(GGUF file, folder of 16 bits) of every family."""
    found = {}
    for name, decoder in FAMILIES.items():
        place = tmp_path_factory.mktemp("family")
        path = decoder.write(place / "m.gguf")
        found[name] = path, converted(path, place / "onnx", bits=16)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_a_forward_pass_in_numpy(folders, family):
    path, folder = folders[family]

    expected = Forward(path).logits(TOKENS)

    np.testing.assert_allclose(Session(folder).logits(TOKENS), expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_llama_cpps(folders, family):
    path, folder = folders[family]
    artifact = Artifact("gguf", (str(path),), "made")
    engine = Plugins().backend("gguf").open(LaunchPlan("gguf", artifact, Settings(64, 1, 1, 1, "f16", n_batch=64)))
    try:
        expected = np.array(engine.step([SlotInput(0, 0, tuple(TOKENS), len(TOKENS))])[0])
    finally:
        engine.close()

    # Its cache of keys and values is in half precision.
    np.testing.assert_allclose(Session(folder).logits(TOKENS), expected, rtol=0, atol=3e-3 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_prompt_in_pieces_gives_the_same_rows(folders, family):
    session = Session(folders[family][1])
    whole = session.logits(TOKENS)
    session.clear()

    pieces = [session.logits(TOKENS[:9]), session.logits(TOKENS[9:14]), *(session.logits([t]) for t in TOKENS[14:])]

    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-4 * np.abs(whole).max())


@pytest.mark.parametrize("rows", [1, 4, 21, 1000])
def test_num_logits_leaves_out_rows(folders, rows):
    session = Session(folders["gemma3"][1])
    whole = session.logits(TOKENS)
    session.clear()

    np.testing.assert_allclose(session.logits(TOKENS, rows), whole[-rows:], rtol=0, atol=1e-5)


def padded(session, rows, length):
    """Logits of several prompts in one run, each filled up at its end."""
    config = session.config
    empty = np.zeros((len(rows), config["num_key_value_heads"], 0, config["head_dim"]), np.float32)
    names = [f"{n}.{what}" for n in range(config["num_hidden_layers"]) for what in ("key", "value")]
    feeds = {f"past_key_values.{name}": empty for name in names}
    feeds["input_ids"] = np.asarray([[*row, *[0] * (length - len(row))] for row in rows], np.int64)
    feeds["attention_mask"] = np.asarray([[1] * len(row) + [0] * (length - len(row)) for row in rows], np.int64)
    return session.session.run(["logits"], feeds)[0]


def test_prompts_of_different_lengths_run_together(folders):
    session = Session(folders["llama"][1])

    together = padded(session, [TOKENS, TOKENS[3:12]], len(TOKENS))

    for got, tokens in zip(together, (TOKENS, TOKENS[3:12]), strict=True):
        session.clear()
        np.testing.assert_allclose(got[: len(tokens)], session.logits(tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4), ("Q8_0", 8), ("Q5_0", 8), ("Q4_0", 8)])
@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_carried_blocks_compute_what_the_file_says(tmp_path, arch, kind, bits):
    """Within what activations of 8 bits allow: a weight that were off by one step would show in the same rows."""
    path = Decoder(arch, kind=kind, kinds={"token_embd": "Q8_0"}, tied=True).write(tmp_path / "m.gguf")

    got = Session(converted(path, tmp_path / "onnx", bits=bits)).logits(TOKENS)

    expected = Forward(path).logits(TOKENS)
    error = np.sqrt(np.mean(np.square(got - expected)) / np.mean(np.square(expected)))
    assert error < 0.03


@pytest.mark.parametrize("tied", [True, False])
def test_new_blocks_of_four_bits_compute_what_they_hold(tmp_path, tied):
    """Head and table too, with their zero points. Of seven matrices a layer each loses about 0.08 of its size."""
    path = Decoder(kind="F32", tied=tied, seed=4).write(tmp_path / "m.gguf")

    got = Session(converted(path, tmp_path / "onnx", bits=4, embedding="int4")).logits(TOKENS)

    expected = Forward(path).logits(TOKENS)
    assert np.sqrt(np.mean(np.square(got - expected)) / np.mean(np.square(expected))) < 0.25
