"""A ternary folder whose config.json has one value that is wrong: it is read, or refused by a typed error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bitnet import folders
from edgellm_bitnet.convert_folder import FolderSource
from edgellm_bitnet.folder import FolderWeights
from edgellm_bitnet.inspection import folder_reasons
from support.refusals import refuses

from edgellm.contract.converter import Conversion
from edgellm.errors import ArtifactError, BadArtifact
from edgellm.formats import hf_config
from edgellm.types.model import Artifact

NAN, INF = float("nan"), float("inf")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 3, 2**31, 10**4000, 1e300, 0.5, NAN, INF, "", "8", [], [1], {}, {"a": "b"},
    {"rope_type": ["x"], "quant_method": [1], "rope_theta": "10"},
)  # fmt: skip
KEYS = ("architectures", "head_dim", "hidden_act", "hidden_size", "intermediate_size", "max_position_embeddings",
        "model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "quantization_config",
        "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings",
        "vocab_size")  # fmt: skip
READERS: dict[str, Callable[[Path], Any]] = {
    "weights": lambda folder: FolderWeights(str(folder)).release(),
    "conversion": lambda folder: FolderSource(
        Conversion(Artifact("safetensors", (str(folder),), "x"), folder / "x.gguf", "i2_s")
    ),
    "predictions": hf_config.summary_of,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> folders.Folder:
    return folders.make(tmp_path_factory.mktemp("ternary") / "model")


def change(sound: folders.Folder, changes: dict[str, Any]) -> Path:
    (sound.path / "config.json").write_text(json.dumps(sound.config | changes))
    return sound.path


@pytest.mark.parametrize("reader", ["weights", "predictions"])
def test_what_is_wrong_in_a_configuration_is_refused_or_read(sound: folders.Folder, reader: str) -> None:
    ends: Counter[str] = Counter()
    for key in KEYS:
        for value in VALUES:
            try:
                READERS[reader](change(sound, {key: value}))
                ends["read"] += 1
            except ArtifactError:
                ends["refused"] += 1
    assert ends["refused"] > 78


@pytest.mark.parametrize("reader", ["weights", "conversion"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "256"),
        ("hidden_size", [256]),
        ("hidden_size", NAN),
        ("hidden_size", True),
        ("hidden_size", -256),
        pytest.param("hidden_size", 10**4000, id="hidden_size-of 4000 digits"),
        ("num_attention_heads", 0.5),
        ("rms_norm_eps", "small"),
        ("rope_scaling", [8]),
        ("rope_parameters", {"rope_theta": "10000"}),
        ("quantization_config", "bitnet"),
    ],
)
def test_the_file_and_the_key_are_named(sound: folders.Folder, reader: str, key: str, value: Any) -> None:
    with refuses(BadArtifact):
        READERS[reader](change(sound, {key: value}))


def test_who_plans_is_told_why_the_folder_is_none(sound: folders.Folder) -> None:
    assert folder_reasons(str(change(sound, {"num_attention_heads": 0.5})))
