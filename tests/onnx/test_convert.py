"""`edgellm convert --to onnx`: the folder's files, what it refuses, and that it is there whole or not at all."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from edgellm_onnx import convert_folder
from edgellm_onnx.convert import convert
from support.gguf_decoders import Decoder, sentence_piece
from support.onnx_session import Session
from support.refusals import check_refusal, refuses

from edgellm.catalog.identify import identify
from edgellm.cli.main import cli
from edgellm.contract.converter import Conversion
from edgellm.errors import BadArtifact, DiskFull, UnsupportedArtifact, UsageError
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import TensorInfo
from edgellm.formats.tokenizer.from_gguf import read_tokenizer
from edgellm.formats.tokenizer.from_json import read_tokenizer_json

TYPES = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS",
)  # fmt: skip


def quiet(done, total, what):
    pass


def converted(path, out, **asked):
    return convert(Conversion(identify(str(path)), out, "onnx", **asked), quiet)


def widths(folder):
    """Bits of every matrix, by the last part of its name."""
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("MatMulNBits", "FusedMatMul"):
            given = {attribute.name: attribute.i for attribute in node.attribute}
            found[node.name.split("/")[-2]] = given.get("bits", 16)
    return found


@pytest.fixture
def tiny(tmp_path):
    return Decoder(kind="Q4_0", kinds={"token_embd": "Q8_0"}).write(tmp_path / "m.gguf")


def test_the_folder_has_what_genai_and_transformers_read(tiny, tmp_path):
    made = converted(tiny, tmp_path / "out")

    folder = tmp_path / "out"
    assert sorted(os.listdir(folder)) == [
        "chat_template.jinja", "config.json", "genai_config.json", "generation_config.json", "model.onnx",
        "model.onnx.data", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert made.bytes == sum(path.stat().st_size for path in folder.iterdir())
    genai = json.loads((folder / "genai_config.json").read_text())["model"]
    assert genai["decoder"]["inputs"]["past_key_names"] == "past_key_values.%d.key"
    assert (genai["vocab_size"], genai["decoder"]["num_hidden_layers"], genai["decoder"]["head_size"]) == (288, 2, 32)
    assert genai["eos_token_id"] == sorted(read_tokenizer(reader.read_header(tiny)).eos_ids)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    names = [given.name for given in model.graph.input]
    assert names[:3] == ["input_ids", "attention_mask", "past_key_values.0.key"]
    assert "num_logits" in {tensor.name for tensor in model.graph.initializer} & set(names)


def test_a_tied_table_is_stored_once_and_every_tensor_starts_a_page(tiny, tmp_path):
    converted(tiny, tmp_path / "out")

    model = onnx.load(str(tmp_path / "out" / "model.onnx"), load_external_data=False)
    places = {}
    for tensor in model.graph.initializer:
        if tensor.external_data:
            entry = {item.key: item.value for item in tensor.external_data}
            assert int(entry["offset"]) % 4096 == 0
            places.setdefault(entry["offset"], []).append(tensor.name)
    assert ["lm_head.weight_Q8", "lm_head.weight_Q8_rows"] in places.values()


@pytest.mark.parametrize(
    ("kinds", "asked", "expected"),
    [
        ({}, {}, {"qkv_proj": 4, "o_proj": 4, "down_proj": 4, "lm_head": 8}),
        ({"ffn_down": "Q4_1", "attn_v": "Q5_0"}, {}, {"q_proj": 4, "v_proj": 8, "down_proj": 8, "lm_head": 8}),
        ({"ffn_down": "F16"}, {}, {"down_proj": 16, "up_proj": 4}),
        ({"ffn_down": "F16"}, {"bits": 4}, {"down_proj": 4, "lm_head": 8}),
        ({"token_embd": "Q4_0"}, {"bits": 4}, {"lm_head": 4}),
        ({}, {"bits": 4, "embedding": "int4"}, {"lm_head": 4}),
        ({}, {"bits": 4, "embedding": "f16"}, {"lm_head": 16, "o_proj": 4}),
        ({}, {"bits": 8}, {"qkv_proj": 8, "lm_head": 8}),
        ({}, {"bits": 16}, {"qkv_proj": 16, "lm_head": 16}),
    ],
)
def test_bits_of_each_matrix(tmp_path, kinds, asked, expected):
    path = Decoder(kind="Q4_0", kinds={"token_embd": "Q8_0"} | kinds).write(tmp_path / "m.gguf")

    converted(path, tmp_path / "out", **asked)

    found = widths(tmp_path / "out")
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_converts_at_16_bits_to_its_values(tmp_path, kind):
    """Compared with the file's own values: rows are in another order for q and k only."""
    from bitnet import ggml

    decoder = Decoder("qwen3", kind=kind, hidden=256, ffn=256, heads=4, head_dim=64, layers=1)
    path = decoder.write(tmp_path / "m.gguf")

    converted(path, tmp_path / "out", bits=16)

    raw = next(data for info, data in decoder.tensors() if info.name == "blk.0.ffn_down.weight")
    expected = (
        np.frombuffer(raw, np.float32).reshape(256, 256) if kind == "F32" else ggml.dequantize(kind, raw, 256, 256)
    )
    model = onnx.load(str(tmp_path / "out" / "model.onnx"))
    found = next(t for t in model.graph.initializer if t.name == "model.layers.0.mlp.down_proj.weight")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(found), expected.astype(np.float16))


def test_rows_of_no_whole_blocks_stay_at_16_bits_and_it_says_so(tmp_path):
    path = Decoder(kind="F16", ffn=80).write(tmp_path / "m.gguf")

    made = converted(path, tmp_path / "out", bits=4)

    assert widths(tmp_path / "out")["down_proj"] == 16
    assert any("rows of no whole blocks" in note and "down_proj" in note for note in made.notes)


def test_notes_tell_what_differs(tmp_path):
    path = Decoder(kind="Q4_1", kinds={"token_embd": "Q8_0"}).write(tmp_path / "m.gguf")

    notes = converted(path, tmp_path / "out", bits=4).notes

    assert any("order of rotated neighbours" in note for note in notes)
    assert any("1 tensors of Q8_0 were carried over at 8 bits" in note for note in notes)
    assert any("14 tensors of Q4_1 were quantized anew to 4 bits" in note and "error 0.0" in note for note in notes)


@pytest.mark.parametrize("vocabulary", [{}, sentence_piece(288), sentence_piece(288, prefix=True)])
def test_the_tokenizer_cuts_text_as_the_files_does(tmp_path, vocabulary):
    path = Decoder(vocabulary=vocabulary).write(tmp_path / "m.gguf")

    converted(path, tmp_path / "out", bits=16)

    ours, theirs = read_tokenizer_json(tmp_path / "out"), read_tokenizer(reader.read_header(path))
    text = "the thing on\n\n  a  <tool>he\u3053 é</s><|end|>    t"
    for special, parsed in ((True, False), (True, True), (False, True)):
        assert ours.encode(text, add_special=special, parse_special=parsed) == theirs.encode(
            text, add_special=special, parse_special=parsed
        )
    assert (ours.chat_template, ours.bos_id, ours.eos_ids) == (theirs.chat_template, theirs.bos_id, theirs.eos_ids)


@pytest.mark.parametrize(
    ("decoder", "error"),
    [
        pytest.param(Decoder("phi3", head_dim=16), UnsupportedArtifact, id="another architecture"),
        pytest.param(Decoder(keys={"expert_count": 8, "expert_used_count": 2}), UnsupportedArtifact, id="experts"),
        pytest.param(
            Decoder("gemma3", keys={"final_logit_softcapping": 30.0}), UnsupportedArtifact, id="capped logits"
        ),
        pytest.param(
            Decoder(keys={"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}),
            UnsupportedArtifact,
            id="longrope",
        ),
        pytest.param(Decoder(keys={"rope.dimension_count": 16}), UnsupportedArtifact, id="some rotating dimensions"),
        pytest.param(Decoder(keys={"attention.value_length": 16}), UnsupportedArtifact, id="another value length"),
        pytest.param(Decoder(keys={"attention.head_count_kv": [2, 1]}), UnsupportedArtifact, id="heads that differ"),
        pytest.param(Decoder(keys={"attention.layer_norm_rms_epsilon": None}), BadArtifact, id="no epsilon"),
        pytest.param(Decoder(keys={"context_length": 0}), BadArtifact, id="no context"),
        pytest.param(Decoder(extra={"blk.0.attn_sinks.weight": 4}), UnsupportedArtifact, id="sinks"),
        pytest.param(Decoder(ffn=64, keys={"feed_forward_length": 96}), BadArtifact, id="another width"),
        pytest.param(Decoder(vocabulary={"tokenizer.ggml.model": "no_vocab"}), UnsupportedArtifact, id="no vocabulary"),
        pytest.param(
            Decoder(kind="TQ1_0", hidden=256, ffn=256, kinds={"token_embd": "I2_S"}),
            UnsupportedArtifact,
            id="an embedding in I2_S",
        ),
    ],
)
def test_what_the_graph_cannot_hold_is_refused_by_name(tmp_path, decoder, error):
    if "I2_S" in decoder.kinds.values():
        info = TensorInfo("token_embd.weight", (256, 288), BY_NAME["I2_S"])
        plain = Decoder(hidden=256, ffn=256)
        path = plain.write(tmp_path / "m.gguf", token_embd__weight=(info, bytes(info.n_bytes)))
    else:
        path = decoder.write(tmp_path / "m.gguf")

    with refuses(error):
        converted(path, tmp_path / "out")

    assert sorted(os.listdir(tmp_path)) == ["m.gguf"]


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_numbers_that_are_none_are_refused_by_tensor(tmp_path, kind):
    info = TensorInfo("blk.1.ffn_up.weight", (64, 96), BY_NAME[kind])
    path = Decoder().write(tmp_path / "m.gguf", blk__1__ffn_up__weight=(info, b"\xff\x7f" * (info.n_bytes // 2)))

    with refuses(BadArtifact):
        converted(path, tmp_path / "out", bits=8)

    assert sorted(os.listdir(tmp_path)) == ["m.gguf"]


def test_a_weight_beyond_half_precision_is_refused_at_16_bits(tmp_path):
    info = TensorInfo("blk.1.ffn_up.weight", (64, 96), BY_NAME["F32"])
    data = np.full(64 * 96, 1e6, np.float32).tobytes()
    path = Decoder().write(tmp_path / "m.gguf", blk__1__ffn_up__weight=(info, data))

    with refuses(BadArtifact):
        converted(path, tmp_path / "out", bits=16)


@pytest.mark.parametrize(
    ("asked", "param"),
    [({"bits": 5}, "bits"), ({"embedding": "q6_k"}, "embedding"), ({"i2s_layout": "arm"}, "i2s_layout")],
)
def test_options_without_meaning_are_refused(tiny, tmp_path, asked, param):
    with pytest.raises(UsageError) as caught:
        converted(tiny, tmp_path / "out", **asked)

    assert caught.value.param == param


def test_a_disk_that_is_full_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(DiskFull):
        converted(tiny, tmp_path / "out")

    assert sorted(os.listdir(tmp_path)) == ["m.gguf"]


def test_an_interrupt_leaves_nothing_behind(tiny, tmp_path):
    def stop(done, total, what):
        if total and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(Conversion(identify(str(tiny)), tmp_path / "out", "onnx"), stop)

    assert sorted(os.listdir(tmp_path)) == ["m.gguf"]


def test_progress_goes_up_to_the_end(tiny, tmp_path):
    seen = []
    convert(
        Conversion(identify(str(tiny)), tmp_path / "out", "onnx"), lambda done, total, what: seen.append((done, total))
    )

    done = [step for step, total in seen if total]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1] == (tmp_path / "out" / "model.onnx.data").stat().st_size


def test_force_replaces_a_converted_folder_and_nothing_else(tiny, tmp_path):
    out = tmp_path / "out"
    converted(tiny, out, bits=8)
    with refuses(UsageError, param="out"):
        converted(tiny, out)
    converted(tiny, out, bits=4, replace=True)
    assert widths(out)["o_proj"] == 4

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("keep me")
    with refuses(UsageError, param="out"):
        converted(tiny, mine, replace=True)
    with refuses(UsageError, param="out"):
        converted(tiny, mine / "letter.txt", replace=True)
    assert sorted(os.listdir(tmp_path)) == ["m.gguf", "mine", "out"]
    assert sorted(os.listdir(mine)) == ["letter.txt"]


def test_an_empty_folder_is_filled(tiny, tmp_path):
    (tmp_path / "out").mkdir()

    converted(tiny, tmp_path / "out")

    assert (tmp_path / "out" / "model.onnx").is_file()


def test_a_folder_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(UsageError) as caught, convert_folder.new_folder(tmp_path / "file" / "out", replace=False):
        pass

    assert caught.value.param == "out"


def test_the_command(tiny, tmp_path):
    out = tmp_path / "out"

    ran = CliRunner().invoke(cli, ["convert", str(tiny), "--to", "onnx", "--bits", "8", "--out", str(out), "--json"])

    assert ran.exit_code == 0, ran.output
    answer = json.loads(ran.stdout)
    assert (answer["path"], answer["bytes"]) == (str(out), sum(path.stat().st_size for path in out.iterdir()))
    assert any("carried over at 8 bits" in note for note in answer["notes"])


def test_the_command_refuses_other_bits_and_bits_for_other_formats(tiny, tmp_path):
    odd = CliRunner().invoke(cli, ["convert", str(tiny), "--to", "onnx", "--bits", "5", "--out", "x"])
    ternary = CliRunner().invoke(
        cli, ["convert", str(tiny), "--to", "tq2_0", "--bits", "4", "--out", str(tmp_path / "x.gguf")]
    )

    assert odd.exit_code == 2
    check_refusal(ternary.exception, UsageError)


@pytest.mark.slow(4)
@pytest.mark.model
def test_smollm2_at_four_bits_runs_and_chooses_llama_cpps_tokens(smollm2, tmp_path):
    """Q4_1 is not held by 4 bits without loss, so a Q4_0 file of it, made by llama.cpp's quantizer, is converted."""
    from edgellm.contract.engine import SlotInput
    from edgellm.contract.manager import plugins
    from edgellm.types.model import Artifact
    from edgellm.types.plan import LaunchPlan, Settings

    path = tmp_path / "q4_0.gguf"
    made = CliRunner().invoke(
        cli, ["quantize", smollm2, "--to", "Q4_0", "--allow-requantize", "--output", str(path), "--threads", "2"]
    )
    assert made.exit_code == 0, made.output
    notes = converted(path, tmp_path / "out", bits=4).notes
    assert any("210 tensors of Q4_0 were carried over at 4 bits" in note for note in notes)

    plan = LaunchPlan("gguf", Artifact("gguf", (str(path),), "made"), Settings(64, 1, 2, 2, "f16", n_batch=64))
    engine = plugins().backend("gguf").open(plan)
    try:
        prompt = engine.tokenizer.encode(
            "The capital of France is Paris. Water boils at", add_special=True, parse_special=False
        )
        theirs = engine.step([SlotInput(0, 0, tuple(prompt), len(prompt))])[0].copy()
    finally:
        engine.close()
    ours = Session(tmp_path / "out", threads=2).logits(prompt)

    for mine, other in zip(ours, theirs, strict=True):
        # Both round activations, so near ties may fall either way: the choice is among the other's best.
        assert other[mine.argmax()] >= other.max() - 0.5
    assert np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1)) > 0.8
