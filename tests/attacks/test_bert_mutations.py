"""A BERT folder whose files stay well-formed, with one thing wrong: a graph is made of it, or a typed error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks.safetensors.mutations import Header, recast, rename
from support.safetensors_writer import build
from support.tiny_bert import TinyBert

from edgellm.errors import ArtifactError

graph_of = pytest.importorskip("edgellm_onnx.convert_bert").graph_of

Mutation = Callable[[Header, Header], None]
VALUES: tuple[Any, ...] = (None, True, 0, -1, 3, 2**31, 2**63, 1e300, 0.5, "", "8", [], [1], {}, {"a": "b"})
KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
        "vocab_size", "type_vocab_size", "layer_norm_eps", "hidden_act", "model_type", "architectures",
        "position_embedding_type", "id2label", "pad_token_id")  # fmt: skip
TYPES = ("F64", "F16", "BF16", "I64", "U8", "BOOL")
NAMES = ("", ".", "../../x", "embeddings.LayerNorm.gamma", "encoder.layer.99.output.dense.weight")


def mutations(header: Header) -> dict[str, Mutation]:
    """Each changes its copies of the tensors' header and of the configuration."""
    made: dict[str, Mutation] = {}
    names = [name for name in header if name != "__metadata__"]
    table, query = (next(name for name in names if part in name) for part in ("word_embeddings", "query.weight"))
    for name in (table, query, names[-1]):
        shape = header[name]["shape"]
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        for dims in (shape[::-1], [1, *shape], [size], [1, size], [size // 2, 2]):
            made[f"{name} of {dims}"] = lambda tensors, _, name=name, dims=dims: tensors[name].update(shape=dims)
        for kind in TYPES:
            made[f"{name} as {kind}"] = lambda tensors, _, name=name, kind=kind: recast(tensors[name], kind)
        for other in NAMES:
            made[f"{name} is {other}"] = lambda tensors, _, name=name, other=other: rename(tensors, name, other)
    for key in KEYS:
        for value in VALUES:
            made[f"{key} is {value!r}"] = lambda _, config, key=key, value=value: config.update({key: value})
        made[f"{key} is gone"] = lambda _, config, key=key: config.pop(key, None)
    return made


def test_what_is_wrong_in_a_bert_folder_is_refused_or_read(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, config = json.loads(content[8 : 8 + length]), json.loads((tmp_path / "config.json").read_text())
    ends: Counter[str] = Counter()
    made = mutations(header)
    for mutate in made.values():
        tensors, settings = json.loads(json.dumps(header)), json.loads(json.dumps(config))
        mutate(tensors, settings)
        (tmp_path / "model.safetensors").write_bytes(build(tensors, content[8 + length :]))
        (tmp_path / "config.json").write_text(json.dumps(settings))
        try:
            graph_of(tmp_path)
            ends["read"] += 1
        except ArtifactError:
            ends["refused"] += 1
    assert ends["refused"] > 78
    assert len(made) > 2 * 78
