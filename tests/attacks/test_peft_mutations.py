"""A peft folder whose files stay well-formed, with one thing wrong: it is read, or refused by a typed error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks.safetensors.mutations import Header, recast, rename
from support.random_lora import random_lora
from support.safetensors_writer import build
from support.tiny_models import MODELS

from edgellm.adaptation import peft_export, peft_folder
from edgellm.adaptation.peft_config import CONFIG
from edgellm.errors import ArtifactError
from edgellm.formats.gguf import reader

Files = tuple[Header, bytes, Header]  # the header of the tensors, their bytes, the configuration
VALUES: tuple[Any, ...] = (None, True, 0, -1, 2**31, 2**63, 1e300, 0.5, "", "8", [], [1], {}, {"a": "b"})
KEYS = ("r", "lora_alpha", "peft_type", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules",
        "fan_in_fan_out", "bias", "modules_to_save", "task_type", "base_model_name_or_path")  # fmt: skip
PATTERNS = ("(", "q_proj", "^.*$", "(a+)+$", "x" * 10_000, "\\1", "*")
TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL")
NAMES = ("lora_A.weight", "base_model.model.lora_A.weight", "base_model.model.x.lora_C.weight", "", ".", "../../x",
         "base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight", "base_model.vera_A",
         "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight",
         "base_model.model.model.layers.0.self_attn.q_proj.weight",
         "base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.lm_head.lora_A.weight",
         "base_model.vera_B")  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Files]:
    folder = tmp_path_factory.mktemp("peft")
    model = reader.read_model(MODELS["llama-grouped"].sparse(folder))
    peft_export.write(folder / "peft", random_lora(model, roles=("attn_q", "ffn_down")), model)
    content = (folder / "peft" / peft_folder.WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    config = json.loads((folder / "peft" / CONFIG).read_text())
    return model, (json.loads(content[8 : 8 + length]), content[8 + length :], config)


def mutations(header: Header, config: Header) -> dict[str, Callable[[Header, Header], None]]:
    """Each changes its copies."""
    made: dict[str, Callable[[Header, Header], None]] = {}
    names = [name for name in header if name != "__metadata__"]
    first, last = names[0], names[-1]
    for name in (first, last):
        shape = header[name]["shape"]
        shapes = [
            shape[::-1],
            [1, *shape],
            [shape[0] * shape[1]],
            [shape[0], shape[1] // 2, 2],
            [1, shape[0] * shape[1]],
        ]
        for dims in shapes:
            made[f"{name} of {dims}"] = lambda tensors, _, name=name, dims=dims: tensors[name].update(shape=dims)
        for kind in TYPES:
            made[f"{name} as {kind}"] = lambda tensors, _, name=name, kind=kind: recast(tensors[name], kind)
        for other in NAMES:
            made[f"{name} is {other[:60]}"] = lambda tensors, _, name=name, other=other: rename(tensors, name, other)
    for key in KEYS:
        for value in VALUES:
            made[f"{key} is {value!r}"] = lambda _, settings, key=key, value=value: settings.update({key: value})
        made[f"{key} is gone"] = lambda _, settings, key=key: settings.pop(key, None)
    for key in ("rank_pattern", "alpha_pattern"):
        for value in ({pattern: size} for pattern in PATTERNS for size in (1, 0, -1, 3, 10**30, "4", None, 0.5)):
            made[f"{key} is {value!r}"] = lambda _, settings, key=key, value=value: settings.update({key: value})
    return made


def test_what_is_wrong_in_a_peft_folder_is_refused_or_read(sound: tuple[Any, Files], tmp_path: Path) -> None:
    model, (header, data, config) = sound
    ends: Counter[str] = Counter()
    made = mutations(header, config)
    for name, mutate in made.items():
        tensors, settings = json.loads(json.dumps(header)), json.loads(json.dumps(config))
        mutate(tensors, settings)
        (tmp_path / peft_folder.WEIGHTS).write_bytes(build(tensors, data))
        (tmp_path / CONFIG).write_text(json.dumps(settings))
        try:
            peft_folder.load(tmp_path, model)
            ends["read"] += 1
        except ArtifactError as error:
            ends["refused, with a hint" if error.hint else name] += 1
    assert len(made) > 3 * 78
    assert ends.keys() == {"read", "refused, with a hint"}
    assert ends["refused, with a hint"] > 78
