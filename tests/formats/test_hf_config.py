"""What a Hugging Face folder says of itself, and what it is not believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import safetensors_writer as w

from edgellm.errors import ArtifactError
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
    ("config", "complaint"),
    [
        ("", "cannot be read"),
        ("[1]", "is no JSON object"),
        ("[" * 100_000, "cannot be read"),
        ('{"a": "' + "x" * MAX_BYTES + '"}', "is no JSON object of at most"),
        ({**BITNET, "model_type": "gemma3"}, "model_type 'gemma3' are not known"),
        ({**BITNET, "hidden_size": None}, "hidden_size is None, no count"),
        ({**BITNET, "hidden_size": -1}, "hidden_size is -1, no count"),
        ({**BITNET, "num_hidden_layers": 10**30}, "num_hidden_layers is 1000"),
        ({**BITNET, "vocab_size": True}, "vocab_size is True, no count"),
        ({**BITNET, "vocab_size": "many\u001b[2J"}, "vocab_size is 'many.x1b"),
        ({**BITNET, "quantization_config": ["bitnet"]}, "quantization_config is no object"),
    ],
)
def test_a_folder_that_lies_is_refused(folder, config: object, complaint: str) -> None:
    with pytest.raises(ArtifactError, match=complaint) as caught:
        summary_of(folder(config))
    assert caught.value.hint


def test_a_folder_without_config(tmp_path: Path) -> None:
    w.write(tmp_path / "model.safetensors", {"x": ("U8", (4,), bytes(4))})
    with pytest.raises(ArtifactError, match=r"has no config\.json"):
        summary_of(tmp_path)
