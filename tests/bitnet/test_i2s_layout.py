"""The order of I2_S codes is found from the weights of trained models, in both directions, and refused where unsure."""

from __future__ import annotations

import numpy as np
import pytest
from edgellm_bitnet import i2s_layout
from edgellm_bitnet.codecs import i2_s, master
from edgellm_bitnet.ternary import Ternary
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from support.refusals import refuses

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.reader import read_model

LAYOUTS = ["x86", "arm"]
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 256, 768, 4, 2, 64


def finder(weights, layout):
    """As if the weights (name -> Ternary) lay in an I2_S file of that order."""
    stored = {
        name: i2s_layout.Packed(np.frombuffer(i2_s.encode(found, layout=layout), np.uint8), found.rows, found.cols)
        for name, found in weights.items()
    }
    return stored.get


def made_up(shared, *, attention_only=False, seed=0):
    """Two layers in which what a neuron reads and writes have a share in common; 0 is what random weights have."""
    rng = np.random.default_rng(seed)
    weights = {}

    def pair(layer, reads, writes, rows, cols):
        read = rng.standard_normal((rows, HIDDEN))
        wanted = np.repeat(read.reshape(-1, HEAD_DIM, HIDDEN), cols // rows, axis=0).reshape(cols, HIDDEN)
        write = (shared * wanted + rng.standard_normal((cols, HIDDEN))).T
        for name, values in ((reads, read), (writes, write)):
            found = master.quantize(np.ascontiguousarray(values, np.float32), trained=True)
            weights[f"blk.{layer}.{name}.weight"] = found

    for layer in range(2):
        pair(layer, "attn_v", "attn_output", KV_HEADS * HEAD_DIM, HEADS * HEAD_DIM)
        if not attention_only:
            pair(layer, "ffn_up", "ffn_down", FFN, FFN)
    return weights


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention_only", [False, True])
def test_the_order_is_found(layout, attention_only):
    found = i2s_layout.evidence(finder(made_up(0.15, attention_only=attention_only), layout), 2, HEAD_DIM)

    assert found.best() == layout
    assert found.pairs == (2 if attention_only else 4)


@pytest.mark.parametrize("seed", range(20))
def test_random_weights_show_no_order(seed):
    find = finder(made_up(0, seed=seed), "x86")
    found = i2s_layout.evidence(find, 2, HEAD_DIM)

    assert max(abs(found.x86), abs(found.arm)) < 5
    assert found.best() is None
    with refuses(UnsupportedArtifact):
        i2s_layout.resolve(find, 2, HEAD_DIM, asked="", declared=None, where="m.gguf")


def test_rows_of_four_in_a_byte_are_neither_order():
    """A third order, of bitnet.cpp built without ACT_PARALLEL: rows 4r to 4r + 3 share a byte. Refused, not guessed."""
    stored = {}
    for name, found in made_up(0.3).items():
        lanes = found.codes.reshape(-1, 4, found.cols)
        raw = lanes[:, 0] << 6 | lanes[:, 1] << 4 | lanes[:, 2] << 2 | lanes[:, 3]
        stored[name] = i2s_layout.Packed(
            np.concatenate([raw.reshape(-1), np.zeros(32, np.uint8)]), found.rows, found.cols
        )

    assert i2s_layout.evidence(stored.get, 2, HEAD_DIM).best() is None


def test_what_is_asked_comes_first_then_what_the_file_says():
    find = finder(made_up(0.3), "x86")

    def resolve(asked, declared):
        return i2s_layout.resolve(find, 2, HEAD_DIM, asked=asked, declared=declared, where="m")

    assert resolve("", None) == "x86"
    assert resolve("", "arm") == "arm"
    assert resolve("x86", "arm") == "x86"
    with refuses(BadArtifact):
        resolve("", 7)


@pytest.mark.parametrize(
    ("x86", "arm", "best"),
    [(50, 1, "x86"), (1, 50, "arm"), (50, 20, None), (20, 50, None), (7, 0, None), (9, -1, "x86"), (-90, -80, None)],
)
def test_evidence_has_to_be_strong_and_one_sided(x86, arm, best):
    assert i2s_layout.Evidence(x86, arm, 4).best() == best


def test_tensors_without_whole_blocks_or_partners_are_not_compared():
    assert i2s_layout.evidence({}.get, 2, HEAD_DIM).pairs == 0
    odd = {
        name: Ternary(np.ones(shape, np.uint8), np.ones((), np.float32))
        for name, shape in {"blk.0.ffn_up.weight": (384, 256), "blk.0.ffn_down.weight": (256, 512)}.items()
    }
    assert i2s_layout.evidence(finder(odd, "x86"), 1, HEAD_DIM).pairs == 0


@pytest.mark.model
@pytest.mark.parametrize("name", [pytest.param("gemma3", marks=pytest.mark.slow(1)), "smollm2"])
def test_the_order_is_plain_in_weights_that_somebody_trained(name, request):
    """Published models, made ternary here: what neurons read and write hangs together in all of them."""
    model = read_model(request.getfixturevalue(name))
    file = np.memmap(model.paths[0], np.uint8, "r")
    tensors = {tensor.name: tensor for tensor in model.tensors}

    def whole(tensor):
        kind = GGMLQuantizationType(tensor.type.id)
        data = file[tensor.offset : tensor.offset + tensor.n_bytes].reshape(tensor.dims[1], -1)
        values = dequantize(data, kind)
        blocks = np.ascontiguousarray(values[: len(values) // 128 * 128, : values.shape[1] // 128 * 128])
        return master.quantize(blocks, trained=True)

    weights = {
        f"blk.0.{kind}.weight": whole(tensors[f"blk.6.{kind}.weight"]) for kind in ("ffn_up", "ffn_gate", "ffn_down")
    }
    for layout in LAYOUTS:
        found = i2s_layout.evidence(finder(weights, layout), 1, 0)

        assert found.pairs == 2
        assert found.best() == layout
        right, wrong = (found.x86, found.arm) if layout == "x86" else (found.arm, found.x86)
        assert right > 100
        assert wrong < right / 20
