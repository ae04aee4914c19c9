"""Values on which native code would abort, or compute nonsense, are refused by the name of their key."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import gguf_writer as w
from support.refusals import refuses
from support.tiny_models import MODELS

from edgellm.errors import BadArtifact
from edgellm.formats.gguf import vocabulary
from edgellm.formats.gguf.reader import read_model

TOKENS = ["<s>", "</s>", "a", "b", "ab", "▁a"]
SOUND: dict[str, tuple[int, Any]] = {
    "llama.attention.layer_norm_rms_epsilon": (w.FLOAT32, 1e-5),
    "llama.rope.freq_base": (w.FLOAT32, 10000.0),
    "llama.rope.dimension_count": (w.UINT32, 16),
    "tokenizer.ggml.model": (w.STRING, "gpt2"),
    "tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, TOKENS)),
    "tokenizer.ggml.token_type": (w.ARRAY, (w.INT32, [3, 3, 1, 1, 1, 1])),
    "tokenizer.ggml.merges": (w.ARRAY, (w.STRING, ["a b"])),
    "tokenizer.ggml.bos_token_id": (w.UINT32, 0),
    "tokenizer.ggml.padding_token_id": (w.UINT32, 70_000),
}
EXPERTS = {"llama.expert_count": (w.UINT32, 8), "llama.expert_used_count": (w.UINT32, 2)}

BYTES: dict[str, tuple[int, Any] | None] = {
    "tokenizer.ggml.model": (w.STRING, "llama"),
    "tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, [f"<0x{byte:02X}>" for byte in range(256)])),
    "tokenizer.ggml.scores": (w.ARRAY, (w.FLOAT32, [0.0] * 256)),
    "tokenizer.ggml.token_type": None,
}


def write(folder: Path, changed: dict[str, tuple[int, Any] | None], arch: str = "llama") -> Path:
    """A model whose keys are sound but for `changed`; None leaves one out."""
    made = w.model(arch)
    keys = {key: (kind, value) for key, kind, value in made.keys} | SOUND | changed
    rows = [(key, *entry) for key, entry in keys.items() if entry is not None]
    return replace(made, keys=rows).write(folder / "m.gguf")


def test_what_is_sound_is_read(tmp_path: Path) -> None:
    model = read_model(write(tmp_path, EXPERTS))
    vocabulary.check(model.header)


@pytest.mark.parametrize(
    "changed",
    [
        {"llama.block_count": (w.UINT32, 513)},
        {"llama.block_count": (w.UINT32, 0)},
        {"llama.context_length": (w.UINT32, 0)},
        {"llama.context_length": (w.UINT32, 2**32 - 1)},
        {"llama.attention.layer_norm_rms_epsilon": (w.FLOAT32, -1.0)},
        {"llama.attention.layer_norm_rms_epsilon": (w.FLOAT32, 0.0)},
        {"llama.attention.layer_norm_rms_epsilon": (w.FLOAT32, 1e38)},
        {"llama.attention.layer_norm_epsilon": (w.FLOAT32, 2.0)},
        {"llama.rope.freq_base": (w.FLOAT32, math.inf)},
        {"llama.rope.freq_base": (w.ARRAY, (w.FLOAT32, [1e4, math.inf]))},
        {"llama.rope.dimension_count": (w.INT32, -2)},
        {"llama.rope.freq_base": (w.FLOAT32, 0.0)},
        {"llama.rope.freq_base": (w.FLOAT32, -1.0)},
        {"llama.attention.scale": (w.FLOAT32, -math.inf)},
        {"llama.rope.freq_base": (w.FLOAT32, 1e38)},
        {"llama.rope.scaling.factor": (w.FLOAT32, -1.0)},
        {"llama.rope.scaling.factor": (w.FLOAT32, 1e-45)},
        {"llama.nextn_predict_layers": (w.UINT32, 2)},
        {"llama.nextn_predict_layers": (w.UINT32, 3)},
        EXPERTS | {"llama.expert_count": (w.UINT32, 1), "llama.expert_group_count": (w.UINT32, 1)},
        {"llama.expert_count": (w.UINT32, 2**32 - 1), "llama.expert_used_count": (w.UINT32, 2**32 - 1)},
        {"llama.rope.dimension_count": (w.UINT32, 15)},
        {"llama.rope.dimension_count": (w.UINT32, 18)},
        {"llama.rope.scaling.type": (w.STRING, "cubic")},
        {"llama.expert_count": (w.UINT32, 8)},
        {"llama.expert_used_count": (w.UINT32, 1)},
        EXPERTS | {"llama.expert_used_count": (w.UINT32, 9)},
        EXPERTS | {"llama.expert_count": (w.UINT32, 1025)},
        EXPERTS | {"llama.expert_group_count": (w.UINT32, 3)},
        EXPERTS | {"llama.expert_group_count": (w.UINT32, 4)},
        {"llama.expert_group_count": (w.UINT32, 1)},
    ],
    ids=range(31),
)
def test_keys_that_the_header_alone_tells(tmp_path: Path, changed: dict[str, tuple[int, Any] | None]) -> None:
    path = write(tmp_path, changed)
    with refuses(BadArtifact):
        read_model(path)


@pytest.mark.parametrize(
    ("name", "kind"), [("token_embd.weight", 26), ("output_norm.weight", 28), ("output_norm.weight", 1)]
)
def test_weights_of_a_type_that_nothing_multiplies_by(tmp_path: Path, name: str, kind: int) -> None:
    made = w.model()
    tensors = [replace(tensor, type=kind, n_bytes=8192) if tensor.name == name else tensor for tensor in made.tensors]
    with refuses(BadArtifact):
        read_model(replace(made, tensors=tensors).write(tmp_path / "m.gguf"))


def hybrid(folder: Path, name: str, changed: dict[str, tuple[int, Any]], without: str = "", kind: int = w.F32) -> Path:
    """A small model; `without` a tensor, with `ssm_a` of type `kind`."""
    made = replace(MODELS[name], n_layer=4).gguf()
    keys = {key: (form, value) for key, form, value in made.keys} | changed
    tensors = [
        replace(tensor, type=kind) if tensor.name.endswith("ssm_a") else tensor
        for tensor in made.tensors
        if tensor.name != without
    ]
    return replace(made, keys=[(key, *entry) for key, entry in keys.items()], tensors=tensors).write(folder / "m.gguf")


@pytest.mark.parametrize("name", ["qwen35", "qwen35moe", "deepseek2"])
def test_hybrid_models_that_are_sound_are_read(tmp_path: Path, name: str) -> None:
    read_model(hybrid(tmp_path, name, {}))


@pytest.mark.parametrize(
    ("name", "changed", "without", "kind"),
    [
        ("qwen35", {"qwen35.full_attention_interval": (w.UINT32, 0)}, "", w.F32),
        ("qwen35", {"qwen35.ssm.inner_size": (w.UINT32, 0)}, "", w.F32),
        ("qwen35", {"qwen35.ssm.inner_size": (w.UINT32, 3)}, "", w.F32),
        ("qwen35moe", {"qwen35moe.ssm.inner_size": (w.UINT32, 2**31)}, "", w.F32),
        ("qwen35", {}, "blk.0.attn_qkv.weight", w.F32),
        ("qwen35moe", {}, "blk.1.attn_gate.weight", w.F32),
        ("qwen35", {}, "", 24),
        ("deepseek2", {"deepseek2.attention.key_length_mla": (w.UINT32, 32)}, "", w.F32),
        ("deepseek2", {"deepseek2.rope.dimension_count": (w.UINT32, 64)}, "", w.F32),
        ("deepseek2", {"deepseek2.attention.head_count_kv": (w.UINT32, 3)}, "", w.F32),
        ("deepseek2", {"deepseek2.attention.key_length": (w.UINT32, 64)}, "", w.F32),
        ("qwen35moe", {"qwen35moe.rope.dimension_sections": (w.ARRAY, (w.UINT32, [8, 8, 17, 0]))}, "", w.F32),
        ("qwen35", {"qwen35.rope.dimension_sections": (w.ARRAY, (w.INT32, [1, -1, 0, 0]))}, "", w.F32),
        ("qwen35", {"qwen35.rope.dimension_sections": (w.ARRAY, (w.UINT32, [0, 0, 0, 8]))}, "", w.F32),
    ],
    ids=range(14),
)
def test_hybrid_models_on_which_native_code_would_end(
    tmp_path: Path, name: str, changed: dict[str, tuple[int, Any]], without: str, kind: int
) -> None:
    path = hybrid(tmp_path, name, changed, without, kind)
    with refuses(BadArtifact):
        read_model(path)


@pytest.mark.parametrize("name", ["phi3", "bitnet", "falcon", "lfm2", "qwen2-72b", "olmo2", "gpt-oss"])
def test_heads_that_are_sound_are_read(tmp_path: Path, name: str) -> None:
    read_model(replace(MODELS[name], n_layer=9).gguf().write(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("name", "changed", "without"),
    [
        ("phi3", {"phi3.attention.head_count": (w.UINT32, 1)}, ""),
        ("phi3", {"phi3.attention.head_count": (w.UINT32, 3)}, ""),
        ("phi3", {"phi3.attention.head_count": (w.UINT32, 2**31 - 1)}, ""),
        ("phi3", {"phi3.attention.head_count": (w.ARRAY, (w.UINT32, [4, 4, 4, 1]))}, ""),
        ("phi3", {"phi3.attention.key_length": (w.UINT32, 0)}, ""),
        ("phi3", {"phi3.attention.value_length": (w.UINT32, 1)}, ""),
        ("phi3", {}, "blk.3.attn_qkv.weight"),
        ("bitnet", {"bitnet.attention.head_count": (w.UINT32, 1)}, ""),
        ("bitnet", {"bitnet.attention.key_length": (w.UINT32, 3)}, ""),
        ("olmo2", {"olmo2.attention.key_length": (w.UINT32, 32)}, ""),
        ("olmo2", {"olmo2.attention.key_length_swa": (w.UINT32, 32)}, ""),
        ("gpt-oss", {"gpt-oss.attention.value_length": (w.UINT32, 1)}, ""),
        ("gpt-oss", {"gpt-oss.attention.value_length_swa": (w.UINT32, 0)}, ""),
        ("gpt-oss", {"gpt-oss.rope.dimension_count": (w.UINT32, 32)}, ""),
    ],
    ids=range(14),
)
def test_heads_on_which_native_code_would_end(
    tmp_path: Path, name: str, changed: dict[str, tuple[int, Any]], without: str
) -> None:
    path = hybrid(tmp_path, name, changed, without)
    with refuses(BadArtifact):
        read_model(path)


@pytest.mark.parametrize("alignment", [1, 8, 16])
def test_an_alignment_that_native_code_cannot_map(tmp_path: Path, alignment: int) -> None:
    with refuses(BadArtifact):
        read_model(write(tmp_path, {"general.alignment": (w.UINT32, alignment)}))


@pytest.mark.parametrize(
    "changed",
    [
        {"tokenizer.ggml.model": (w.STRING, "no_vocab")},
        {"tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, ["a", "b", "c", "d", "e", "a\0b"]))},
        {"tokenizer.ggml.model": (w.STRING, "llama"), "tokenizer.ggml.scores": (w.ARRAY, (w.FLOAT32, [0.0] * 6))},
        {"tokenizer.ggml.model": (w.STRING, "gemma4"), "tokenizer.ggml.bos_token_id": None},
        {"tokenizer.ggml.add_eos_token": (w.BOOL, True)},
        {"tokenizer.ggml.model": (w.STRING, "bert")},
        {"tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, ["a"] * 6))},
        {"tokenizer.ggml.token_type": (w.ARRAY, (w.INT32, [3, 3, 1, 1, 1, 99]))},
        {"tokenizer.ggml.token_type": (w.ARRAY, (w.INT32, [-1] * 6))},
        {"tokenizer.ggml.merges": (w.ARRAY, (w.STRING, ["x y", "nospace", "a b"]))},
        {"tokenizer.ggml.model": (w.STRING, "llama")},
        {"tokenizer.ggml.model": (w.STRING, "t5"), "tokenizer.ggml.scores": (w.ARRAY, (w.FLOAT32, [0.0]))},
        {"tokenizer.ggml.model": (w.STRING, "rwkv")},
        {"tokenizer.ggml.model": (w.STRING, "plamo2")},
        {
            "tokenizer.ggml.model": (w.STRING, "bert"),
            "tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, TOKENS[:5])),
            "tokenizer.ggml.token_type": None,
        },
        {"tokenizer.ggml.bos_token_id": (w.UINT32, 6)},
        {"tokenizer.ggml.eos_token_id": (w.UINT32, 2**31)},
        {"tokenizer.ggml.eot_token_id": (w.INT32, -7)},
        {
            "tokenizer.ggml.model": (w.STRING, "bert"),
            "tokenizer.ggml.seperator_token_id": (w.UINT32, 1),
            "tokenizer.ggml.token_type": (w.ARRAY, (w.INT32, [3, 3, 1, 1, 1, 6])),
        },
        {"tokenizer.ggml.token_type": (w.ARRAY, (w.INT32, [1] * 7))},
        {"tokenizer.ggml.scores": (w.ARRAY, (w.FLOAT32, [0.0] * 7))},
        {"tokenizer.ggml.merges": (w.ARRAY, (w.STRING, ["a b"] * 49))},
        {
            "tokenizer.ggml.tokens": (w.ARRAY, struct.pack("<IQ", w.STRING, 2**20 + 1) + bytes(8 * (2**20 + 1))),
            "tokenizer.ggml.token_type": None,
        },
        {
            "tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, ["a" * 2**25, *(f"t{no}" for no in range(2000))])),
            "tokenizer.ggml.token_type": None,
            "tokenizer.ggml.merges": None,
        },
        {"tokenizer.chat_template": (w.STRING, "x" * 300_000)},
        {"tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, [*TOKENS[:5], "▁" * 1400]))},
    ],
    ids=range(26),
)
def test_a_vocabulary_that_is_none(tmp_path: Path, changed: dict[str, tuple[int, Any] | None]) -> None:
    header = read_model(write(tmp_path, changed)).header
    with refuses(BadArtifact):
        vocabulary.check(header)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokenizer.ggml.bos_token_id": (w.UINT32, 2**32 - 1)},
        {"tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, ["", "", "a", "b", "ab", "c"]))},
        {"tokenizer.ggml.merges": None},
        BYTES,
        {"tokenizer.ggml.model": (w.STRING, "bert"), "tokenizer.ggml.seperator_token_id": (w.UINT32, 1)},
        {"tokenizer.ggml.merges": (w.ARRAY, (w.INT32, [1, 2]))},
        {"llama.rope.freq_base": (w.FLOAT32, 0.0), "llama.rope.dimension_count": (w.UINT32, 0)},
        {"general.type": (w.STRING, "adapter"), "llama.context_length": (w.UINT32, 0)},
    ],
    ids=range(8),
)
def test_what_is_unusual_and_sound(tmp_path: Path, changed: dict[str, tuple[int, Any] | None]) -> None:
    vocabulary.check(read_model(write(tmp_path, changed)).header)


def test_tensors_that_no_block_has(tmp_path: Path) -> None:
    """Native code compares the name of each with all before it."""
    made = w.model()
    made.keys += [(key, *value) for key, value in SOUND.items() if key.startswith("llama.")]
    made.tensors += [w.Tensor(f"{number}", (1,), w.F32, 4) for number in range(640)]
    with refuses(BadArtifact):
        read_model(made.write(tmp_path / "m.gguf"))


def test_long_arrays_are_read_from_the_file(tmp_path: Path) -> None:
    tokens = [f"t{no}" for no in range(2000)]
    long = {"tokenizer.ggml.token_type": (w.ARRAY, (w.INT32, [1] * 2000)), "tokenizer.ggml.merges": None}
    once = long | {"tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, tokens))}
    vocabulary.check(read_model(write(tmp_path, once)).header)
    twice = long | {"tokenizer.ggml.tokens": (w.ARRAY, (w.STRING, [*tokens[1:], "t7"]))}
    with refuses(BadArtifact):
        vocabulary.check(read_model(write(tmp_path, twice)).header)
