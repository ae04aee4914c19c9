"""No configuration beside the weights hangs its reader or fills its memory: pipes, devices and huge files are refused.

The parent reads these files while it plans, so nothing else would end it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from edgellm_bitnet import inspection
from edgellm_bitnet.folder import FolderWeights
from edgellm_onnx import encoder_folder
from edgellm_onnx.reader.folder import open_folder
from edgellm_onnx.reader.graph import read_graph
from support import gguf_writer, safetensors_writer
from support.refusals import refuses
from support.waiting import PATIENCE_S

from edgellm.adaptation import peft_folder
from edgellm.catalog.identify import identify, inspect
from edgellm.errors import BadArtifact, EdgeLLMError
from edgellm.formats import encoder_length, hf_config, sampling_keys
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf import imatrix
from edgellm.formats.gguf.reader import read_model
from edgellm.formats.json_file import MAX_BYTES
from edgellm.formats.safetensors.reader import read_safetensors
from edgellm.formats.tokenizer.from_json import read_tokenizer_json
from edgellm.testing.limit import within

NAMES = (
    "config.json", "genai_config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "model.safetensors", "model.safetensors.index.json", "shard.safetensors",
    "decoder_model_merged.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx", "onnx/decoder_model_merged.onnx",
    "model.onnx", "model.gguf", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin",
)  # fmt: skip
GRAPHS = tuple(name for name in NAMES if name.endswith(".onnx"))


def link_to_a_device(place: Path) -> None:
    place.symlink_to("/dev/zero")


def pipe(place: Path) -> None:
    os.mkfifo(place)


def huge(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(MAX_BYTES + 1)


READERS: dict[str, Callable[[Path], Any]] = {
    "a Hugging Face folder": hf_config.config_of,
    "ternary weights": lambda folder: FolderWeights(str(folder)),
    "a graph": open_folder,
    "an encoder": encoder_folder.read_folder,
}


# With what else is read of a folder that somebody gives.
ALL_READERS: dict[str, Callable[[Path], Any]] = READERS | {
    "a model": lambda folder: identify(str(folder)),
    "what a file holds": lambda folder: inspect(str(folder), "onnx"),
    "tensors": read_safetensors,
    "a tokenizer": read_tokenizer_json,
    "sampling": sampling_keys.of_folder,
    "the longest text": lambda folder: encoder_length.encoder_length(folder, {}),
    "an adapter": lambda folder: peft_folder.load(folder, read_model(folder.parent / "base.gguf")),
    "a GGUF file": lambda folder: read_model(folder / "model.gguf"),
    "a GGUF adapter": lambda folder: gguf_adapter.read(folder / "model.gguf"),
    "an importance matrix": lambda folder: imatrix.read_imatrix(folder / "model.gguf"),
    "a graph's file": lambda folder: [read_graph(folder / name) for name in GRAPHS if (folder / name).exists()],
}


USUAL = {
    "config.json": b'{"model_type": "bert"}',
    "modules.json": b'[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "model.safetensors.index.json": b'{"weight_map": {"x": "shard.safetensors"}}',
    "tokenizer.json": b"{}",
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "decoder_model.onnx": b"\x08\x08",
}


@pytest.fixture(params=[link_to_a_device, pipe, huge], ids=lambda make: make.__name__)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if os.name != "posix":
        pytest.skip("pipes and devices have no names here")
    request.param(tmp_path / "config.json")
    safetensors_writer.write(tmp_path / "model.safetensors", {"x": ("U8", (4,), bytes(4))})
    return tmp_path


@pytest.mark.parametrize("reader", READERS)
def test_a_configuration_without_end_is_refused(folder: Path, reader: str) -> None:
    with refuses(BadArtifact):
        READERS[reader](folder)


def test_who_asks_what_opens_a_folder_is_not_held_up(folder: Path) -> None:
    assert inspection.folder_reasons(str(folder)) == []


@pytest.mark.skipif(os.name != "posix", reason="pipes have no names here")
@pytest.mark.parametrize("name", NAMES)
def test_no_reader_waits_for_a_pipe(tmp_path: Path, name: str) -> None:
    """Each opens what it finds, alone or beside a folder of the usual files."""
    gguf_writer.model().write(tmp_path / "base.gguf")
    for beside in (False, True):
        folder = tmp_path / f"model-{beside}"
        (folder / "onnx").mkdir(parents=True)
        (folder / "1_Pooling").mkdir()
        for file, content in USUAL.items() if beside else ():
            (folder / file).write_bytes(content)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        for what, read in ALL_READERS.items():
            with contextlib.suppress(EdgeLLMError):
                within(PATIENCE_S, what, partial(read, folder))


@pytest.mark.skipif(os.name != "posix", reason="pipes have no names here")
@pytest.mark.parametrize("name", ["decoder_model_merged.onnx", "onnx/decoder_model_merged.onnx", "model.onnx"])
def test_a_pipe_in_the_place_of_a_graph_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "onnx").mkdir()
    os.mkfifo(tmp_path / name)

    with refuses(BadArtifact):
        within(PATIENCE_S, "inspect", lambda: inspect(str(tmp_path), "onnx"))
