"""A ternary model file that lies is refused by the name of the tensor and its place, before native code computes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from bitnet import folders
from bitnet.models import Tiny, engine_of, engine_over, settings_of
from bitnet.packed import library
from edgellm_bitnet import native
from edgellm_bitnet.architecture import from_config
from edgellm_bitnet.folder import FolderWeights
from edgellm_bitnet.plugin import BitnetBackend
from support.refusals import refuses

from edgellm.catalog.identify import identify
from edgellm.contract.engine import Engine
from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.reader import read_model
from edgellm.formats.gguf.writer import TensorInfo, Typed
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan


@pytest.fixture(autouse=True)
def built(monkeypatch):
    """A forward pass over a file that should be refused is a failure of its own."""
    library()

    def computed(*_: object) -> None:
        raise AssertionError("native code got this file")

    monkeypatch.setattr(native.library(), "bn_engine_new", computed)
    monkeypatch.setattr(native.library(), "bn_step", computed)


def refused(path, kind=BadArtifact):
    with refuses(kind) as caught, engine_of(path):
        pass
    assert str(path) in caught.value.message


def place(path, name):
    """(tensor, its offset in the file)."""
    tensor = next(tensor for tensor in read_model(path).tensors if tensor.name == name)
    return tensor, tensor.offset


def patch(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


DOWN, GATE, EMBED = "blk.1.ffn_down.weight", "blk.0.ffn_gate.weight", "token_embd.weight"
HALF = {"nan": np.float16(np.nan).tobytes(), "inf": np.float16(np.inf).tobytes(), "-1": np.float16(-1).tobytes()}
# Where the half scale of a block is, and the bytes of a block.
SCALES = {"TQ2_0": (64, 66), "TQ1_0": (52, 54), "Q2_0": (0, 18), "Q1_0": (0, 18)}


@pytest.mark.parametrize("value", HALF)
@pytest.mark.parametrize("varying", [True, False])
@pytest.mark.parametrize("ternary", SCALES)
def test_a_block_scale_that_is_none(tmp_path, ternary, varying, value):
    path = Tiny("llama", ternary=ternary, varying=varying).write(tmp_path / "x.gguf")
    at, size = SCALES[ternary]
    offset = place(path, DOWN)[1]
    patch(path, offset + 3 * size + at, HALF[value])
    refused(path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1.0", "0.0"])
def test_the_scale_of_an_i2_s_tensor_that_is_none(tmp_path, value):
    path = Tiny().write(tmp_path / "x.gguf")
    tensor, offset = place(path, GATE)
    patch(path, offset + tensor.n_bytes - 32, struct.pack("<f", float(value)))
    refused(path)


@pytest.mark.parametrize("value", ["nan", "inf", "-1.0"])
def test_a_scale_tensor_that_is_none(tmp_path, value):
    added = (TensorInfo("blk.0.ffn_gate.scale", (1,), BY_NAME["F32"]), struct.pack("<f", float(value)))
    path = Tiny("llama", ternary="TQ2_0").write(tmp_path / "x.gguf", blk__0__ffn_gate__scale=added)
    refused(path)


# The code of the first weight of a block, as bits of a byte of it.
CODE_3 = {"I2_S": (0, 0xC0), "I2_S of Arm": (0, 0xC0), "TQ2_0": (0, 0x03), "Q2_0": (2, 0x03)}


@pytest.mark.parametrize("varying", [True, False])
@pytest.mark.parametrize("ternary", CODE_3)
def test_code_3(tmp_path, ternary, varying):
    path = Tiny("llama", ternary=ternary, varying=varying).write(tmp_path / "x.gguf")
    tensor, offset = place(path, DOWN)
    weights = {"I2_S": 128, "I2_S of Arm": 64}.get(ternary, tensor.type.block_elems)
    size = weights // 4 if ternary.startswith("I2_S") else tensor.type.block_bytes
    at, bits = CODE_3[ternary]
    with open(path, "rb") as file:
        file.seek(offset + 5 * size + at)
        byte = file.read(1)[0]
    patch(path, offset + 5 * size + at, bytes([byte | bits]))
    refused(path)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("head", ["", "q8"])
def test_a_head_with_a_value_that_is_none(tmp_path, kind, value, head):
    model = Tiny(head=kind)
    path = model.write(tmp_path / "x.gguf")
    offset = place(path, EMBED)[1]
    raw = struct.pack("<f", float(value))
    raw = {"F32": raw, "F16": np.float16(value).tobytes(), "BF16": raw[2:]}[kind]
    patch(path, offset + len(raw) * (260 * model.hidden + 9), raw)
    with refuses(BadArtifact), engine_of(path, head=head):
        pass


@pytest.mark.parametrize(("kind", "at", "size"), [("Q8_0", 0, 34), ("Q4_0", 0, 18), ("Q6_K", 208, 210)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_head_in_blocks_with_a_scale_that_is_none(tmp_path, kind, at, size, tied):
    path = Tiny(head=kind, tied=tied).write(tmp_path / "x.gguf")
    name = EMBED if tied else "output.weight"
    offset = place(path, name)[1]
    patch(path, offset + 7 * size + at, HALF["nan"])
    refused(path)
    path = Tiny(head="F16", embed=kind, tied=False).write(tmp_path / "y.gguf")
    offset = place(path, EMBED)[1]
    patch(path, offset + 7 * size + at, HALF["inf"])
    refused(path)


@pytest.mark.parametrize("name", ["blk.1.attn_norm.weight", "blk.0.ffn_sub_norm.weight", "output_norm.weight"])
def test_a_norm_with_a_value_that_is_none(tmp_path, name):
    path = Tiny().write(tmp_path / "x.gguf")
    offset = place(path, name)[1]
    patch(path, offset + 4 * 11, struct.pack("<f", float("nan")))
    refused(path)


MISSING = [
    "token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight", "blk.1.attn_v.weight", "blk.1.ffn_down.weight",
    "blk.0.attn_norm.weight", "blk.1.attn_sub_norm.weight", "blk.0.ffn_sub_norm.weight",
]  # fmt: skip


@pytest.mark.parametrize("name", MISSING)
def test_a_tensor_that_is_missing(tmp_path, name):
    path = Tiny().write(tmp_path / "x.gguf", **{name.replace(".", "__"): None})
    refused(path)


@pytest.mark.parametrize("name", ["attn_k_norm_in", "attn_q_norm_in", "ffn_up_norm_in"])
def test_a_norm_that_its_neighbours_have(tmp_path, name):
    path = Tiny("qwen3", input_norms=True).write(tmp_path / "x.gguf", **{f"blk__1__{name}__weight": None})
    refused(path)


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        (DOWN, (256, 512)), (DOWN, (512, 128)), (DOWN, (512, 512)), ("blk.0.attn_k.weight", (256, 256)),
        ("blk.0.attn_q.weight", (128, 512)),
    ],
)  # fmt: skip
def test_a_tensor_of_another_shape(tmp_path, name, dims):
    kind = BY_NAME["I2_S"]
    wrong = TensorInfo(name, dims, kind)
    data = bytes([0x55]) * (wrong.n_bytes - 32) + struct.pack("<f", 1) + bytes(28)
    path = Tiny().write(tmp_path / "x.gguf", **{name.replace(".", "__"): (wrong, data)})
    refused(path)


def test_a_tensor_that_is_no_matrix_and_a_norm_of_another_size(tmp_path):
    flat = TensorInfo(DOWN, (512 * 256,), BY_NAME["I2_S"])
    path = Tiny().write(tmp_path / "x.gguf", blk__1__ffn_down__weight=(flat, bytes(flat.n_bytes)))
    refused(path)
    short = TensorInfo("output_norm.weight", (255,), BY_NAME["F32"])
    path = Tiny().write(tmp_path / "y.gguf", output_norm__weight=(short, bytes(short.n_bytes)))
    refused(path)


def test_weights_that_are_no_whole_blocks_of_i2_s(tmp_path):
    odd = TensorInfo("blk.0.attn_k.weight", (96, 33), BY_NAME["I2_S"])
    model = Tiny("llama", hidden=96, ffn=128, heads=3, kv_heads=3, head_dim=32)
    path = model.write(tmp_path / "x.gguf", blk__0__attn_k__weight=(odd, bytes(odd.n_bytes)))
    refused(path)


def test_types_that_are_mixed_in_one_product(tmp_path):
    one = Tiny("llama", ternary="TQ2_0", varying=True)
    other = Tiny("llama", ternary="Q2_0", varying=True).tensors()["blk.0.attn_k.weight"]
    refused(one.write(tmp_path / "x.gguf", blk__0__attn_k__weight=other), UnsupportedArtifact)


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q.bias", "blk.0.ffn_gate_exps.weight", "blk.7.attn_q.weight", "cls.weight"]
)
def test_tensors_that_would_be_ignored(tmp_path, name):
    """A file with a bias computes something else without it."""
    added = (TensorInfo(name, (256,), BY_NAME["F32"]), bytes(1024))
    refused(Tiny().write(tmp_path / "x.gguf", **{name.replace(".", "__"): added}), UnsupportedArtifact)


KEYS = {
    "attention.head_count": (0, UnsupportedArtifact), "attention.head_count_kv": (0, UnsupportedArtifact),
    "embedding_length": (0, UnsupportedArtifact), "feed_forward_length": (0, UnsupportedArtifact),
    "attention.key_length": (0, BadArtifact), "block_count": (0, BadArtifact),
    "rope.dimension_count": (33, BadArtifact), "rope.freq_base": (1.0, UnsupportedArtifact),
    "attention.layer_norm_rms_epsilon": (float("nan"), BadArtifact), "rope.scaling.factor": (-1.0, BadArtifact),
    "rope.scaling.type": ("longrope", UnsupportedArtifact), "attention.causal": (False, UnsupportedArtifact),
}  # fmt: skip
LARGE = {
    "attention.head_count": 2**31 - 1, "attention.head_count_kv": 3, "embedding_length": 2**31 - 32,
    "feed_forward_length": 2**30, "attention.key_length": 1024, "block_count": 2**30, "rope.dimension_count": 65,
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_means_nothing(tmp_path, key):
    value, kind = KEYS[key]
    refused(Tiny(keys={key: value}).write(tmp_path / "x.gguf"), kind)


@pytest.mark.parametrize("key", LARGE)
def test_a_key_beyond_all_models(tmp_path, key):
    path = Tiny(keys={key: Typed("i32", LARGE[key])}).write(tmp_path / "x.gguf")
    refused(path, BadArtifact if key in ("block_count", "rope.dimension_count") else UnsupportedArtifact)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_rotation_factors_that_are_none(tmp_path, value):
    factors = np.ones(32, np.float32)
    factors[5] = value
    added = (TensorInfo("rope_freqs.weight", (32,), BY_NAME["F32"]), factors.tobytes())
    refused(Tiny("llama").write(tmp_path / "x.gguf", rope_freqs__weight=added))


def test_yarn_without_a_length_to_stretch_from(tmp_path):
    keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "context_length": 0}
    refused(Tiny("qwen3", keys=keys).write(tmp_path / "x.gguf"))


@pytest.mark.parametrize("missing", [1, 33, 100_000])
def test_a_file_that_was_cut(tmp_path, missing):
    path = Tiny().write(tmp_path / "x.gguf")
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - missing)
    refused(path)


def opened(path) -> Engine:
    return BitnetBackend().open(LaunchPlan("bitnet", Artifact("gguf", (str(path),), "I2_S"), settings_of()))


VOCABULARY = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.token_type": Typed("i32", [1] * 302), "tokenizer.ggml.merges": Typed("str", ["\u0100 \u0101"]),
    "tokenizer.ggml.tokens": Typed("str", ["\u0100\u0101", *(chr(0x100 + i) for i in range(301))]),
    "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0,
}  # fmt: skip


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows(tmp_path):
    path = Tiny(vocabulary=VOCABULARY).write(tmp_path / "x.gguf")
    with refuses(BadArtifact):
        opened(path)


def test_what_is_refused_is_refused_by_reading_the_header_where_that_says_it(tmp_path):
    """The parent asks before it plans; it loads no native code."""
    path = Tiny().write(tmp_path / "x.gguf", blk__1__ffn_down__weight=None)
    artifact = identify(str(path))
    assert any("blk.1.ffn_down.weight is missing" in reason for reason in BitnetBackend().supports(artifact))


def opened_folder(folder):
    with engine_over(FolderWeights(str(folder.write().path))):
        pass


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.2.mlp.up_proj.weight", "model.visual.patch.weight"]
)
def test_a_folder_with_tensors_that_would_be_ignored(tmp_path, name):
    folder = folders.make(tmp_path / "x")
    folder.tensors[name] = ("F32", (4,), bytes(16))
    with refuses(UnsupportedArtifact):
        opened_folder(folder)


def test_a_folder_with_norms_of_another_epsilon(tmp_path):
    folder = folders.make(tmp_path / "x")
    folder.config["quantization_config"]["use_rms_norm"] = True
    with refuses(UnsupportedArtifact):
        opened_folder(folder)


SCALING = {
    "no factor": ({"rope_type": "yarn", "factor": None}, UnsupportedArtifact),
    "a text": ({"rope_type": "linear", "factor": "4"}, BadArtifact),
    "negative": ({"rope_type": "llama3", "factor": -8}, BadArtifact),
    "not a number": ({"rope_type": "linear", "factor": float("nan")}, BadArtifact),
    "limits that are one": (
        {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}, UnsupportedArtifact,
    ),
    "another": ({"rope_type": "longrope"}, UnsupportedArtifact),
}  # fmt: skip


@pytest.mark.parametrize("scaling", SCALING)
def test_a_folder_with_a_rope_scaling_that_is_none(tmp_path, scaling):
    folder, (given, kind) = folders.make(tmp_path / "x", "llama"), SCALING[scaling]
    folder.config["rope_scaling"] = given
    if scaling == "no factor":
        given["beta_fast"] = 1
    with refuses(kind):
        opened_folder(folder)


def test_as_many_layers_as_no_model_has_are_refused(tmp_path):
    """Of each tensor of each the engine would make a name: 15 KB took 3.7 GB."""
    config = folders.make(tmp_path / "model").config
    assert from_config(config, "m").layers == folders.LAYERS
    with refuses(UnsupportedArtifact):
        from_config({**config, "num_hidden_layers": 300_000}, "m")
