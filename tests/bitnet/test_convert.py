"""Conversions: every source to every target, the same weights, keys and tokenizer; and what is refused, whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from bitnet import folders, ggml
from click.testing import CliRunner
from edgellm_bitnet import convert_gguf, i2s_layout
from edgellm_bitnet.codecs import floats, i2_s, master, q1_0, q2_0, q8_0, tq1_0, tq2_0
from edgellm_bitnet.convert_folder import rope_factors
from edgellm_bitnet.ternary import Ternary
from support import gguf_writer
from support.refusals import refuses

from edgellm.catalog.identify import identify
from edgellm.cli.convert import command
from edgellm.contract.converter import Conversion
from edgellm.contract.manager import Plugins
from edgellm.errors import BadArtifact, DiskFull, UnsupportedArtifact, UsageError
from edgellm.formats import sampling_keys
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.reader import chat_template, quant_name, read_array, read_header, read_model, shape
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo
from edgellm.formats.tokenizer import from_gguf, from_json
from edgellm.formats.tokenizer.pretokenizers import PRE_TOKENIZERS

CODECS = {"I2_S": i2_s, "TQ2_0": tq2_0, "TQ1_0": tq1_0, "Q2_0": q2_0, "Q1_0": q1_0}
TARGETS = ["i2_s", "tq2_0", "tq1_0", "q2_0"]
ROLES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.attn_sub_norm": "attn_sub_norm",
    "mlp.ffn_sub_norm": "ffn_sub_norm", "self_attn.inner_attn_ln": "attn_sub_norm", "mlp.ffn_layernorm": "ffn_sub_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip
TOP = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def convert(source, to, out, **options):
    """By the registered converter, as the command does."""
    artifact = identify(str(source))
    converter = Plugins().converters()[artifact.format, to]
    return converter(Conversion(artifact, out, to, **options), lambda done, total, what: None)


def role(name):
    if name in TOP:
        return TOP[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{ROLES[rest.removesuffix('.weight')]}.weight"


def raw_tensors(path):
    content = path.read_bytes()
    return {t.name: (t, content[t.offset : t.offset + t.n_bytes]) for t in read_header(path).tensors}


def dense(path):
    """Every tensor as float32, matrices as (rows, cols)."""
    found = {}
    for name, (tensor, raw) in raw_tensors(path).items():
        rows, cols = (*tensor.dims[1:], 1)[0], tensor.dims[0]
        if tensor.type.name in CODECS:
            found[name] = CODECS[tensor.type.name].decode(raw, rows, cols).dense()
        elif tensor.type.name in floats.BYTES:
            found[name] = floats.decode(raw, rows * cols, tensor.type.name).reshape(tensor.dims[::-1])
        else:
            found[name] = ggml.dequantize(tensor.type.name, raw, rows, cols)
    return found


def neighbours(rows, heads):
    """Row i of a head's first half goes to 2 i, of its second to 2 i + 1."""
    half = len(rows) // heads // 2
    out = np.empty_like(rows)
    for head in range(heads):
        for i in range(half):
            out[2 * (head * half + i)] = rows[2 * head * half + i]
            out[2 * (head * half + i) + 1] = rows[2 * head * half + half + i]
    return out


FOLDERS = [
    ("bitnet", "autobitlinear"), ("bitnet", "bitlinear"), ("bitnet", "master"), ("bitnet", "exact-0"),
    ("1bitllm", "master"), ("llama", "bitlinear"), ("llama", "exact-256"), ("qwen3", "exact-256"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "kind"), FOLDERS)
@pytest.mark.parametrize("to", TARGETS)
def test_a_folder_becomes_a_gguf_file_of_the_same_weights(tmp_path, family, kind, to):
    folder = folders.make(tmp_path / "model", family, kind)
    out = tmp_path / "m.gguf"
    if to == "i2_s" and kind == "exact-256":
        with refuses(UnsupportedArtifact):
            convert(folder.path, to, out)
        assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*"))
        return
    made = convert(folder.path, to, out)
    found, header = dense(out), read_header(out)

    assert made.bytes == out.stat().st_size
    wanted = {role(name): ternary.dense() for name, ternary in folder.weights.items()}
    wanted |= {role(name): values for name, values in folder.vectors.items()}
    for name, values in wanted.items():
        if family == "llama" and re.search("attn_[qk]", name):
            values = neighbours(values, folders.HEADS if "attn_q" in name else folders.KV_HEADS)
        exact = kind != "master" or to == "i2_s" or name not in {role(n) for n in folder.weights}
        np.testing.assert_allclose(found.pop(name), values, rtol=0 if exact else 2**-11, err_msg=name)
    assert not found
    types = {name: tensor.type.name for name, (tensor, _) in raw_tensors(out).items()}
    assert {types[role(name)] for name in folder.weights} == {to.upper()}
    assert types["token_embd.weight"] == "BF16"
    assert {types[role(n)] for n, v in folder.vectors.items() if v.ndim == 1} == {"F32"}
    assert quant_name(header) == to.upper()
    assert any("quantized as in training" in note for note in made.notes) == (kind == "master")


@pytest.mark.parametrize("family", ["bitnet", "1bitllm", "llama", "qwen3"])
def test_keys_are_named_as_llama_cpp_names_them(tmp_path, family):
    folder = folders.make(tmp_path / "model", family)
    convert(folder.path, "tq2_0", tmp_path / "m.gguf")
    header = read_header(tmp_path / "m.gguf")
    arch = {"bitnet": "bitnet-b1.58", "1bitllm": "bitnet"}.get(family, family)
    keys = {key.removeprefix(f"{arch}."): value for key, value in header.metadata.items()}

    assert header.architecture == arch
    assert keys["attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert (keys["rope.freq_base"], keys["rope.dimension_count"], keys["general.file_type"]) == (500000, 64, 37)
    known = shape(header)
    assert (known.n_layer, known.n_embd, known.n_ff, known.n_head, known.n_head_kv, known.head_dim, known.n_vocab) == (
        folders.LAYERS, folders.HIDDEN, folders.FFN, folders.HEADS, folders.KV_HEADS, 64, folder.config["vocab_size"],
    )  # fmt: skip
    assert known.tied_embeddings == (family in ("bitnet", "1bitllm"))


def test_what_is_recommended_for_sampling_comes_along(tmp_path):
    folder = folders.make(tmp_path / "model")
    (folder.path / "generation_config.json").write_text('{"do_sample": false, "top_k": 20, "top_p": 0.9}')
    convert(folder.path, "i2_s", tmp_path / "model.gguf")

    keys = read_header(tmp_path / "model.gguf").metadata
    assert sampling_keys.of_gguf(keys) == sampling_keys.of_folder(folder.path)
    assert keys["general.sampling.temp"] == 0


def test_an_i2_s_file_of_ours_says_its_order(tmp_path):
    folder = folders.make(tmp_path / "model")
    for to, said in (("i2_s", "x86"), ("tq2_0", None)):
        convert(folder.path, to, tmp_path / f"{to}.gguf")
        assert read_header(tmp_path / f"{to}.gguf").metadata.get(i2s_layout.KEY) == said


@pytest.mark.parametrize("spm", [False, True])
def test_the_tokenizer_comes_along(tmp_path, spm):
    folder = folders.make(tmp_path / "model", spm=spm)
    convert(folder.path, "i2_s", tmp_path / "m.gguf")
    header = read_header(tmp_path / "m.gguf")
    ours, theirs = from_gguf.read_tokenizer(header), from_json.read_tokenizer_json(folder.path)

    assert header.metadata["tokenizer.ggml.model"] == ("llama" if spm else "gpt2")
    assert header.metadata["tokenizer.ggml.pre"] == ("default" if spm else "llama-bpe")
    assert chat_template(header) == "{% for m in messages %}{{ m.content }}{% endfor %}"
    for text in (folders.TEXT, "</s> is no end here", "Hello\n\n  there", "\u2581x", "12345"):
        ids = ours.encode(text, add_special=True, parse_special=False)
        assert ids == theirs.encode(text, add_special=True, parse_special=False)
        assert [ours.token_bytes(t) for t in ids] == [theirs.token_bytes(t) for t in ids]
    assert (ours.bos_id, ours.eos_id, ours.add_bos, ours.add_eos) == (
        theirs.bos_id, theirs.eos_id, theirs.add_bos, theirs.add_eos,
    )  # fmt: skip
    assert theirs.eos_ids <= ours.eos_ids
    tokens = read_array(header, "tokenizer.ggml.tokens")
    assert len(tokens) == folder.config["vocab_size"]
    assert tokens[-1] == f"[PAD{len(tokens) - 1}]"


def edited_tokenizer(folder, edit):
    path = folder.path / "tokenizer.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


TOKENIZERS = {
    "words": lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+"),
    "merges": lambda t: t["model"].update(ignore_merges=False),
    "space": lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
    "normalizer": lambda t: t.update(normalizer={"type": "Lowercase"}),
    "added": lambda t: t["added_tokens"].append(
            {"id": 302, "content": "fox", "special": False, "lstrip": True, "rstrip": False, "single_word": False,
             "normalized": False}
        ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_gguf_cannot_say_is_refused(tmp_path, name):
    folder = folders.make(tmp_path / "model")
    edit = TOKENIZERS[name]
    edited_tokenizer(folder, edit)
    if name == "merges":  # of the known ones smaug-bpe has these words and does not take whole words first
        convert(folder.path, "i2_s", tmp_path / "m.gguf")
        pre = read_header(tmp_path / "m.gguf").metadata["tokenizer.ggml.pre"]
        assert not PRE_TOKENIZERS[pre].ignore_merges
        return

    with refuses(UnsupportedArtifact):
        convert(folder.path, "i2_s", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_more_tokens_than_rows_is_refused(tmp_path):
    folder = folders.make(tmp_path / "model")
    edited_tokenizer(folder, lambda t: t["added_tokens"].append(dict(t["added_tokens"][0], id=5000, content="<x>")))

    with refuses(BadArtifact):
        convert(folder.path, "i2_s", tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "start", ["i2_s", "tq2_0", *(pytest.param(n, marks=pytest.mark.slow(2)) for n in ("tq1_0", "q2_0"))]
)
@pytest.mark.parametrize("to", TARGETS)
def test_gguf_types_become_each_other_and_all_else_stays(tmp_path, start, to):
    folder = folders.make(tmp_path / "model", "llama", "bitlinear")
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    convert(folder.path, start, first)
    made = convert(first, to, second)

    assert made.notes == ()
    before, after = raw_tensors(first), raw_tensors(second)
    assert list(before) == list(after)
    for name, values in dense(first).items():
        np.testing.assert_array_equal(dense(second)[name], values)
        if "attn_q.weight" not in name and before[name][0].type.name not in CODECS:
            assert after[name][1] == before[name][1]
    keys = [{k: v for k, v in read_header(p).metadata.items() if k != i2s_layout.KEY} for p in (first, second)]
    for header in keys:
        header.pop("general.file_type")
    assert {k: str(v)[:40] for k, v in keys[0].items()} == {k: str(v)[:40] for k, v in keys[1].items()}
    if start == to:
        assert first.read_bytes() == second.read_bytes()


def small_file(path, ternaries, keys=None, scale=None, *, to="I2_S", layout="x86"):
    """A GGUF file of one llama layer's worth of keys and the tensors given."""
    infos = [TensorInfo(n, (t.cols, t.rows), BY_NAME[to]) for n, t in ternaries.items()]
    infos += [TensorInfo("blk.0.ffn_up.scale", (1,), BY_NAME["F32"])] if scale else []
    base = {
        "general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 256,
        "llama.attention.head_count": 4,
    }  # fmt: skip
    with GgufWriter(path, base | (keys or {}), infos) as writer:
        for name, ternary in ternaries.items():
            options = {"layout": layout} if to == "I2_S" else {}
            writer.write(name, CODECS[to].encode(ternary, **options))
        if scale:
            writer.write("blk.0.ffn_up.scale", np.float32(scale).tobytes())
    return path


def one(rows=4, cols=256, *, zeros=True, scales=0.5, group=0, seed=0):
    codes = np.random.default_rng(seed).integers(0, 3 if zeros else 2, (rows, cols), np.uint8) * (1 if zeros else 2)
    return Ternary(codes.astype(np.uint8), np.asarray(scales, np.float32), group)


def test_an_arm_file_is_put_into_the_official_order(tmp_path):
    ternary = one()
    source = small_file(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": ternary}, layout="arm")
    made = convert(source, "i2_s", tmp_path / "b.gguf", i2s_layout="arm")

    np.testing.assert_array_equal(dense(tmp_path / "b.gguf")["blk.0.ffn_up.weight"], ternary.dense())
    assert made.notes == ("The source has its I2_S codes in the order of llama-quantize on Arm.",)
    with refuses(UnsupportedArtifact):
        convert(source, "i2_s", tmp_path / "c.gguf")


def test_a_trained_arm_file_needs_no_hint(tmp_path):
    """What neurons read and write is alike here, as in trained models (see test_i2s_layout)."""
    rng = np.random.default_rng(0)
    read = rng.standard_normal((512, 256)).astype(np.float32)
    write = (read + rng.standard_normal((512, 256))).T.astype(np.float32)
    weights = {
        f"blk.0.{name}.weight": master.quantize(np.ascontiguousarray(values), trained=True)
        for name, values in (("ffn_up", read), ("ffn_down", write))
    }
    source = small_file(tmp_path / "a.gguf", weights, layout="arm")
    made = convert(source, "tq2_0", tmp_path / "b.gguf")

    assert "order of llama-quantize on Arm" in made.notes[0]
    for name, ternary in weights.items():
        assert (np.sign(dense(tmp_path / "b.gguf")[name]) + 1 == ternary.codes).all()


@pytest.mark.parametrize(("to", "kept"), [("i2_s", False), ("q2_0", True)])
def test_a_scale_in_a_tensor_of_its_own_is_kept_or_multiplied_in(tmp_path, to, kept):
    ternary = one()
    source = small_file(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": ternary}, scale=3.0, to="TQ2_0")
    convert(source, to, tmp_path / "b.gguf")
    found = dense(tmp_path / "b.gguf")

    factor = found.pop("blk.0.ffn_up.scale")[0] if kept else 1
    np.testing.assert_array_equal(found["blk.0.ffn_up.weight"] * factor, 3 * ternary.dense())
    assert set(found) == {"blk.0.ffn_up.weight"}


def test_scales_that_are_rounded_are_told(tmp_path):
    source = small_file(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": one(scales=0.1)}, {i2s_layout.KEY: "x86"})
    made = convert(source, "tq2_0", tmp_path / "b.gguf")

    change = abs(float(np.float16(0.1)) - float(np.float32(0.1))) / float(np.float32(0.1))
    assert made.notes == (f"Scales of 1 tensors were rounded to half precision, by {change:.1e} of the scale at most.",)


REFUSED = {
    "block scales to one": (
        {"blk.0.ffn_up.weight": one(scales=np.float32([[1, 2, 3, 4]] * 4), group=64)}, "Q2_0", "i2_s",
    ),
    "small blocks to large": (
        {"blk.0.ffn_up.weight": one(scales=np.float32([[1, 2, 3, 4]] * 4), group=64)}, "Q2_0", "tq1_0",
    ),
    "zeros to q1_0": ({"blk.0.ffn_up.weight": one()}, "TQ2_0", "q1_0"),
    "rows of 128": (
        {"blk.0.ffn_up.weight": one(cols=128)}, "I2_S", "tq2_0",
    ),
    "rows of 64": (
        {"blk.0.ffn_up.weight": one(cols=64)}, "Q2_0", "i2_s",
    ),
    "tiny scale": ({"blk.0.ffn_up.weight": one(scales=1e-9)}, "I2_S", "tq2_0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path, name):
    tensors, start, to = REFUSED[name]
    source = small_file(tmp_path / "a.gguf", tensors, {i2s_layout.KEY: "x86"}, to=start)
    with refuses(UnsupportedArtifact) as caught:
        convert(source, to, tmp_path / "b.gguf")

    assert str(source) in caught.value.message
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize("start", ["I2_S", "TQ1_0", "TQ2_0", "Q2_0"])
@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize(("rows", "cols", "most"), [(100, 256, 32 * 256), (3, 2560, 1024)], ids=["rows", "parts"])
def test_a_matrix_in_pieces_becomes_the_same_bytes(start, to, rows, cols, most, tmp_path, monkeypatch):
    ternary = one(rows, cols, zeros=to != "q1_0", scales=0.1)
    if start != "I2_S":
        group = CODECS[start].BLOCK
        ternary = replace(ternary, scales=np.full((rows, cols // group), np.float16(0.1), np.float32), group=group)
    source = small_file(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": ternary}, {i2s_layout.KEY: "x86"}, to=start)
    whole = convert(source, to, tmp_path / "whole.gguf")
    monkeypatch.setattr(convert_gguf, "PIECE_WEIGHTS", most)
    assert len(list(convert_gguf.pieces_of(rows, cols))) > 3

    assert convert(source, to, tmp_path / "pieces.gguf").notes == whole.notes
    assert (tmp_path / "pieces.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_scales_that_differ_between_pieces_do_not_become_one(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_gguf, "PIECE_WEIGHTS", 32 * 256)
    scales = np.repeat(np.float32([[0.5], [0.25]]), 32, axis=0)
    source = small_file(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": one(64, scales=scales, group=256)}, to="TQ2_0")
    with refuses(UnsupportedArtifact):
        convert(source, "i2_s", tmp_path / "b.gguf")


def test_memory_does_not_grow_with_a_tensor(tmp_path):
    """A hole of 48 million weights, all -1 times 0."""
    rows, kind = 3 * 2**16, BY_NAME["TQ2_0"]
    tensor = gguf_writer.Tensor("blk.0.ffn_up.weight", (256, rows), kind.id, kind.size_bytes(256 * rows))
    header = gguf_writer.Gguf(gguf_writer.model_keys(), [tensor]).header()
    source = tmp_path / "a.gguf"
    source.write_bytes(header)
    os.truncate(source, -(-len(header) // 32) * 32 + tensor.n_bytes)
    tracemalloc.start()
    try:
        convert(source, "tq1_0", tmp_path / "b.gguf")
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_what_the_disk_has_no_room_for_is_refused_before_the_first_byte(tmp_path, monkeypatch):
    source = small_file(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": one()}, to="TQ2_0")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    with refuses(DiskFull, varies=r"[0-9.]+ [kM]B"):
        convert(source, "tq1_0", tmp_path / "b.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_signs_alone_fit_every_type(tmp_path):
    ternary = one(zeros=False)
    source = small_file(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": ternary}, to="Q1_0")
    for to in (*TARGETS, "q1_0"):
        convert(source, to, tmp_path / f"{to}.gguf")
        np.testing.assert_array_equal(dense(tmp_path / f"{to}.gguf")["blk.0.ffn_up.weight"], ternary.dense())


def test_code_3_in_the_source_is_refused_with_tensor_and_byte(tmp_path):
    source = small_file(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": one()}, {i2s_layout.KEY: "x86"})
    content = bytearray(source.read_bytes())
    at = read_header(source).tensors[0].offset
    content[at + 9] = 0xFF
    source.write_bytes(bytes(content))

    with refuses(BadArtifact):
        convert(source, "tq2_0", tmp_path / "b.gguf")


def test_a_file_without_ternary_weights_is_refused(tmp_path):
    with GgufWriter(tmp_path / "a.gguf", {"general.architecture": "llama"}, [
        TensorInfo("token_embd.weight", (256, 4), BY_NAME["TQ2_0"]), TensorInfo("n", (32,), BY_NAME["F32"]),
    ]) as writer:  # fmt: skip
        writer.write("token_embd.weight", tq2_0.encode(one()))
        writer.write("n", bytes(128))
    artifact = replace(identify_file(tmp_path / "a.gguf"))

    with refuses(UnsupportedArtifact):
        Plugins().converters()["gguf", "i2_s"](Conversion(artifact, tmp_path / "b", "i2_s"), print)


def identify_file(path):
    from edgellm.types.model import Artifact

    return Artifact("gguf", (str(path),), "m")


def test_parts_of_a_split_file_are_joined(tmp_path):
    halves = {name: one(seed=i) for i, name in enumerate(("blk.0.ffn_up.weight", "blk.0.ffn_gate.weight"))}
    for no, (name, ternary) in enumerate(halves.items()):
        keys = {"split.no": no, "split.count": 2, "split.tensors.count": 2}
        small_file(tmp_path / f"m-0000{no + 1}-of-00002.gguf", {name: ternary}, keys, to="TQ1_0")
    convert(tmp_path / "m-00001-of-00002.gguf", "tq2_0", tmp_path / "b.gguf")

    model = read_model(tmp_path / "b.gguf")
    assert len(model.paths) == 1
    assert not [key for key in model.header.metadata if key.startswith("split.")]
    for name, ternary in halves.items():
        np.testing.assert_array_equal(dense(tmp_path / "b.gguf")[name], ternary.dense())


@pytest.mark.parametrize("to", ["f32", "f16", "q8_0", "q6_k"])
def test_embeddings_take_another_type_when_asked(tmp_path, to):
    folder = folders.make(tmp_path / "model", "llama")
    made = convert(folder.path, "i2_s", tmp_path / "m.gguf", embedding=to)
    kinds = {name: tensor.type.name for name, (tensor, _) in raw_tensors(tmp_path / "m.gguf").items()}
    found = dense(tmp_path / "m.gguf")

    assert (kinds["token_embd.weight"], kinds["output.weight"]) == (to.upper(), to.upper())
    for ours, theirs in (("token_embd.weight", "embed_tokens.weight"), ("output.weight", "lm_head.weight")):
        error = np.sqrt(np.square(found[ours] - folder.vectors[theirs]).mean())
        spread = folder.vectors[theirs].std()
        assert error <= {"f32": 0, "f16": 1e-6, "q8_0": 0.01, "q6_k": 0.03}[to] * spread
        told = [note for note in made.notes if f"{ours}, BF16 to {to.upper()}" in note]
        assert len(told) == (error > 0)
        if told:
            assert f"{error:.2g}" in told[0]
    if to == "q8_0":
        embedding = folder.vectors["embed_tokens.weight"]
        assert raw_tensors(tmp_path / "m.gguf")["token_embd.weight"][1] == q8_0.encode(embedding)


EMBEDDINGS = {"unknown": "q3_x", "a type that is read, not written": "q4_k"}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_unknown_types_of_embeddings_are_refused(tmp_path, name):
    folder = folders.make(tmp_path / "model")
    with refuses(UsageError, param="embedding"):
        convert(folder.path, "i2_s", tmp_path / "m.gguf", embedding=EMBEDDINGS[name])


def test_an_embedding_that_is_quantized_already_is_not_quantized_again(tmp_path):
    folder = folders.make(tmp_path / "model")
    convert(folder.path, "i2_s", tmp_path / "a.gguf", embedding="q6_k")
    convert(tmp_path / "a.gguf", "tq2_0", tmp_path / "b.gguf", embedding="q6_k")

    name = "token_embd.weight"
    assert raw_tensors(tmp_path / "b.gguf")[name][1] == raw_tensors(tmp_path / "a.gguf")[name][1]
    with refuses(UnsupportedArtifact):
        convert(tmp_path / "a.gguf", "tq2_0", tmp_path / "c.gguf", embedding="q8_0")


def _add(name, tensor):
    return lambda f: f.tensors.update({name: tensor})


def _quantization(**changed):
    return lambda f: f.config["quantization_config"].update(changed)


Q = "model.layers.0.self_attn.q_proj.weight"
TINY = ("F32", (1,), bytes(4))
BROKEN = {
    "a tensor too many": _add("model.layers.0.mlp.extra.weight", TINY),
    "a layer too many": _add("model.layers.2.input_layernorm.weight", TINY),
    "a bias": _add("model.layers.0.self_attn.q_proj.bias", TINY),
    "a tensor missing": lambda f: f.tensors.pop("model.layers.1.mlp.up_proj.weight"),
    "a norm missing": lambda f: f.tensors.pop("model.layers.1.mlp.ffn_sub_norm.weight"),
    "no scale": lambda f: f.tensors.pop(f"{Q}_scale"),
    "a scale that is nan": _add(f"{Q}_scale", ("F32", (1,), np.float32(np.nan).tobytes())),
    "a scale of two": _add(f"{Q}_scale", ("F32", (2,), bytes(8))),
    "code 3": _add(Q, ("U8", (64, 256), b"\xff" * 64 * 256)),
    "another shape": _add(Q, ("U8", (32, 256), bytes(32 * 256))),
    "another type": _add(Q, ("I32", (256, 256), bytes(4 * 256 * 256))),
    "floats with a scale": _add(Q, ("BF16", (256, 256), bytes(2 * 256 * 256))),
    "an embedding that is packed": lambda f: f.tensors.update(
        {"model.embed_tokens.weight": ("U8", f.tensors["model.embed_tokens.weight"][1],
                                       bytes(f.tensors["model.embed_tokens.weight"][1][0] * 256))}
    ),
    "an unknown class": _quantization(linear_class="otherlinear"),
    "an unknown family": lambda f: f.config.update(model_type="mamba"),
    "gemma": lambda f: f.config.update(model_type="gemma3_text", hidden_act="gelu"),
    "a norm that is nan": _add("model.norm.weight", ("F32", (256,), np.full(256, np.nan, np.float32).tobytes())),
}  # fmt: skip


NOT_SUPPORTED = {
    "a tensor too many", "a layer too many", "a bias", "an unknown class", "an unknown family", "gemma",
    "a norm that is nan",
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_not_right_is_refused(tmp_path, name):
    change = BROKEN[name]
    folder = folders.make(tmp_path / "model")
    change(folder)
    folder.write()

    if name == "a norm that is nan":  # F32 goes over byte by byte, so BF16 is what is looked at
        folder.tensors["model.norm.weight"] = ("BF16", (256,), np.full(256, 0x7FC0, np.uint16).tobytes())
        folder.write()
    with refuses(UnsupportedArtifact if name in NOT_SUPPORTED else BadArtifact):
        convert(folder.path, "i2_s", tmp_path / "m.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_weights_that_nobody_trained_ternary_are_refused(tmp_path):
    folder = folders.make(tmp_path / "model", "llama", "master")
    del folder.config["quantization_config"]
    folder.write()

    with refuses(UnsupportedArtifact):
        convert(folder.path, "i2_s", tmp_path / "m.gguf")


def test_a_head_that_only_repeats_the_embedding_is_left_out(tmp_path):
    folder = folders.make(tmp_path / "model")
    folder.tensors["lm_head.weight"] = folder.tensors["model.embed_tokens.weight"]
    folder.write()
    made = convert(folder.path, "i2_s", tmp_path / "m.gguf")

    assert "output.weight" not in raw_tensors(tmp_path / "m.gguf")
    assert made.notes == ("lm_head.weight was left out: the configuration ties it to the embedding.",)


def test_shards_convert_as_one_file_does(tmp_path):
    folder = folders.make(tmp_path / "model")
    convert(folder.path, "i2_s", tmp_path / "one.gguf")
    names = sorted(folder.tensors)
    for no, half in enumerate((names[::2], names[1::2])):
        from support import safetensors_writer

        safetensors_writer.write(folder.path / f"model-{no}.safetensors", {name: folder.tensors[name] for name in half})
    index = {name: f"model-{names.index(name) % 2}.safetensors" for name in names}
    (folder.path / "model.safetensors").unlink()
    (folder.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    convert(folder.path, "i2_s", tmp_path / "two.gguf")

    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_halves_and_neighbours_turn_alike(tmp_path):
    """A query's product with a key is the same, rotated by halves before or by neighbours after."""
    rng = np.random.default_rng(1)
    q, k, angle = rng.standard_normal((64, 1)), rng.standard_normal((64, 1)), rng.standard_normal(32)

    def halves(x, a):
        one, two = x[:32, 0], x[32:, 0]
        return np.concatenate([one * np.cos(a) - two * np.sin(a), two * np.cos(a) + one * np.sin(a)])

    def pairs(x, a):
        one, two = x[::2, 0], x[1::2, 0]
        return np.stack([one * np.cos(a) - two * np.sin(a), two * np.cos(a) + one * np.sin(a)], axis=1).reshape(-1)

    before = halves(q, angle) @ halves(k, 3 * angle)
    after = pairs(neighbours(q, 1), angle) @ pairs(neighbours(k, 1), 3 * angle)
    assert before == pytest.approx(after)


def test_llama_3_1s_stretching_becomes_a_tensor(tmp_path):
    folder = folders.make(tmp_path / "model", "llama")
    folder.config["rope_scaling"] = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }  # fmt: skip
    folder.write()
    convert(folder.path, "i2_s", tmp_path / "m.gguf")
    factors = dense(tmp_path / "m.gguf")["rope_freqs.weight"]

    wavelengths = 2 * np.pi * 500000.0 ** (np.arange(0, 64, 2) / 64)
    assert factors.shape == (32,)
    np.testing.assert_allclose(factors[wavelengths < 128 / 4], 1)
    np.testing.assert_allclose(factors[wavelengths > 128], 8)
    between = (wavelengths > 32) & (wavelengths < 128)
    assert between.any()
    assert ((factors[between] > 1) & (factors[between] < 8)).all()
    assert rope_factors.__module__ == "edgellm_bitnet.convert_folder"


@pytest.mark.parametrize("scaling", [{"rope_type": "yarn", "factor": 4.0}, {"type": "linear", "factor": 2.0}])
def test_other_stretchings_become_keys(tmp_path, scaling):
    folder = folders.make(tmp_path / "model", "qwen3")
    folder.config["rope_scaling"] = scaling | {"original_max_position_embeddings": 256}
    folder.write()
    convert(folder.path, "i2_s", tmp_path / "m.gguf")
    keys = read_header(tmp_path / "m.gguf").metadata

    assert keys["qwen3.rope.scaling.type"] == scaling.get("rope_type", scaling.get("type"))
    assert keys["qwen3.rope.scaling.factor"] == scaling["factor"]
    original = keys.get("qwen3.rope.scaling.original_context_length")
    assert original == (256 if "rope_type" in scaling else None)


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_command(tmp_path):
    folder = folders.make(tmp_path / "model", kind="master")
    out = tmp_path / "m.gguf"
    said = run(folder.path, "--to", "TQ2_0", "--out", out)

    assert said.exit_code == 0
    assert said.stdout.startswith(f"Wrote {out}, ")
    assert "14 tensors were quantized as in training" in said.stdout
    assert "writing m.gguf" in said.stderr
    answer = json.loads(run(out, "--to", "i2_s", "--out", tmp_path / "n.gguf", "--json").stdout)
    assert answer == {
        "schema": 1, "path": str(tmp_path / "n.gguf"), "bytes": (tmp_path / "n.gguf").stat().st_size, "notes": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        pytest.param(("--to", "q9"), "to", id="another type"),
        pytest.param(("--to", "i2_s", "--i2s-layout", "arm"), "", id="a layout for a folder"),
    ],
)
def test_the_command_refuses(tmp_path, arguments, param):
    folder = folders.make(tmp_path / "model")
    with refuses(UsageError, param=param) as caught:
        run(folder.path, *arguments, "--out", tmp_path / "m.gguf")
    assert caught.value.hint


def test_a_file_is_replaced_only_by_force(tmp_path):
    folder = folders.make(tmp_path / "model")
    out = tmp_path / "m.gguf"
    out.write_text("precious")
    with refuses(UsageError):
        run(folder.path, "--to", "i2_s", "--out", out)
    assert out.read_text() == "precious"

    run(folder.path, "--to", "i2_s", "--out", out, "--force")
    assert read_header(out).tensors
