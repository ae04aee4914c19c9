"""What a Hugging Face folder says of itself, and what it is not believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import safetensors_writer as w
from support.refusals import refuses

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.estimate import architecture
from edgellm.formats.hf_config import MAX_BYTES, summary_of

# microsoft/bitnet-b1.58-2B-4T
BITNET = {
    "model_type": "bitnet", "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 30,
    "num_attention_heads": 20, "num_key_value_heads": 5, "vocab_size": 128256, "tie_word_embeddings": True,
    "max_position_embeddings": 4096, "quantization_config": {"quant_method": "bitnet"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path):
    def make(config: object = BITNET, tensors: dict[str, Any] | None = None, **changes: object) -> Path:
        whole = {**config, **changes} if isinstance(config, dict) else config
        (tmp_path / "config.json").write_text(whole if isinstance(whole, str) else json.dumps(whole))
        w.write(
            tmp_path / "model.safetensors", tensors or {"x": ("U8", (64,), bytes(64)), "y": ("BF16", (4,), bytes(8))}
        )
        return tmp_path

    return make


def test_the_shape_is_that_of_the_published_model(folder) -> None:
    summary = summary_of(folder())
    parts = architecture.tensors(summary.shape)

    assert parts is not None
    assert sum(t.elems * len(t.layers) for t in parts) == 2_412_820_480
    assert summary.shape.kv_full_bytes == 2 * 2 * 5 * 128 * 30
    assert (summary.is_ternary, summary.ctx_train, summary.float_type, summary.tensor_bytes) == (True, 4096, "", 72)


def test_plain_weights_are_in_the_type_that_most_bytes_have(folder) -> None:
    tensors = {"a": ("F32", (2,), bytes(8)), "b": ("BF16", (64,), bytes(128))}
    summary = summary_of(folder(tensors=tensors, model_type="qwen3", quantization_config=None, head_dim=128))

    assert (summary.shape.arch, summary.is_ternary, summary.float_type) == ("qwen3", False, "BF16")


def test_the_first_ternary_models_say_so_by_their_class(folder) -> None:
    summary = summary_of(folder(model_type="llama", architectures=["BitnetForCausalLM"], quantization_config=None))

    assert (summary.shape.arch, summary.is_ternary) == ("bitnet", True)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param("", id="empty"),
        pytest.param("[1]", id="a list"),
        pytest.param("[" * 100_000, id="nested"),
        pytest.param('{"a": "' + "x" * MAX_BYTES + '"}', id="too large"),
        pytest.param({**BITNET, "hidden_size": None}, id="no width"),
        pytest.param({**BITNET, "hidden_size": -1}, id="a negative width"),
        pytest.param({**BITNET, "num_hidden_layers": 10**30}, id="too many layers"),
        pytest.param({**BITNET, "vocab_size": True}, id="a bool of tokens"),
        pytest.param({**BITNET, "vocab_size": "many\u001b[2J"}, id="a text of tokens"),
        pytest.param({**BITNET, "quantization_config": ["bitnet"]}, id="quantization a list"),
    ],
)
def test_a_folder_that_lies_is_refused(folder, config: object) -> None:
    with refuses(BadArtifact) as caught:
        summary_of(folder(config))
    assert caught.value.hint


def test_an_unknown_family_is_unsupported(folder) -> None:
    with refuses(UnsupportedArtifact) as caught:
        summary_of(folder({**BITNET, "model_type": "gemma3"}))
    assert caught.value.hint


def test_a_folder_without_config(tmp_path: Path) -> None:
    w.write(tmp_path / "model.safetensors", {"x": ("U8", (4,), bytes(4))})
    with refuses(BadArtifact):
        summary_of(tmp_path)
