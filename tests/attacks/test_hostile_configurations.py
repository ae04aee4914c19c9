"""No configuration beside the weights hangs its reader or fills its memory: pipes, devices and huge files are refused.

The parent reads these files while it plans, so nothing else would end it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgellm_bitnet import inspection
from edgellm_bitnet.folder import FolderWeights
from edgellm_onnx import encoder_folder
from edgellm_onnx.reader.folder import open_folder
from support import safetensors_writer
from support.refusals import refuses

from edgellm.errors import BadArtifact
from edgellm.formats import hf_config
from edgellm.formats.json_file import MAX_BYTES


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
