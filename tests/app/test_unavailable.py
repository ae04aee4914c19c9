"""What a store lacks is told by what would help: another start, the network, or the bundle that it came with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from support import gguf_writer
from support.refusals import refuses
from support.store_server import sha256
from test_launch import MACHINE

from edgellm import settings
from edgellm.app import context, launch, unavailable
from edgellm.bundle import slots
from edgellm.bundle.slots import SlotRecord, Slots
from edgellm.catalog import lookup
from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.selection.context import SelectionContext
from edgellm.store import manifest
from edgellm.store.library import MADE, Library
from edgellm.store.sealed import slot_of
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.request import SelectionRequest

NAME = "qwen3-0.6b"
VARIES = r"[0-9a-f]{16,64}|(?<= has )\d+|\d+(?= were stored)|(?<=slot )\S+(?=/root/A)|(?<=root )\S+(?=/root)"
pytestmark = pytest.mark.usefixtures("known_machine")


@pytest.fixture
def published(tmp_path: Path) -> ModelFile:
    """As a model that ships in a package."""
    path = gguf_writer.model().write(tmp_path / "package.gguf")
    return ModelFile(f"file:{path}", "Q8_0", bytes=path.stat().st_size, sha256=sha256(path.read_bytes()))


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is served: the store is this slot's."""
    folder = tmp_path / "root" / "A"
    (folder / slots.FILES / "models").mkdir(parents=True)
    data = folder / slots.HOME / "data"
    data.mkdir(parents=True)
    os.symlink(f"../../{slots.FILES}/models", data / "models")
    record = SlotRecord(name="house", release=3, sha256="0" * 64, target="box")
    (folder / slots.RECORD).write_bytes(msgspec.json.encode(record))
    monkeypatch.setenv("EDGELLM_HOME", str(folder / slots.HOME))
    return folder


def stored(file: ModelFile) -> Path:
    """Inside the store, as a bundle brings it."""
    Library().root.mkdir(parents=True, exist_ok=True)
    copy = Library().root / "package.gguf"
    shutil.copy(file.source.removeprefix("file:"), copy)
    return Path(Library().keep(card_of(file), file, copy).path)


def card_of(file: ModelFile) -> ModelCard:
    return replace(lookup.find(NAME), files=(file,))


def known(file: ModelFile) -> SelectionContext:
    return replace(context.here(), machine=MACHINE).narrowed([card_of(file)])


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(1, 1))


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("harm", [flip, lambda path: os.truncate(path, 100), Path.unlink], ids=["flip", "cut", "gone"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_slot_is_not_mended_from_a_package(
    slot: Path, published: ModelFile, harm: Callable[[Path], None], *, offline: bool
) -> None:
    harm(stored(published))
    before = below(slot / slots.FILES / "models" / NAME)

    with refuses(BadArtifact, varies=VARIES) as caught:
        launch.model_plan(NAME, SelectionRequest(offline=offline), context=known(published))

    assert caught.value.exit_code == 4, "so that the unit of a slot does not start it again"
    assert "house release 3" in caught.value.hint
    assert below(slot / slots.FILES / "models" / NAME) == before


@pytest.mark.parametrize("source", ["package", "hub"])
def test_what_a_slot_has_no_more_is_not_waited_for(slot: Path, published: ModelFile, source: str) -> None:
    shutil.rmtree(stored(published).parent)
    file = published if source == "package" else replace(published, source="hf://o/r:Q8_0")

    with refuses(BadArtifact, varies=VARIES):
        launch.model_plan(NAME, SelectionRequest(offline=True), context=known(file))


@pytest.mark.parametrize("source", ["package", "hub"])
def test_what_a_newer_version_stored_in_a_slot_is_told_as_that(slot: Path, published: ModelFile, source: str) -> None:
    file = published if source == "package" else replace(published, source="hf://o/r:Q8_0")
    record = stored(published).with_name(manifest.RECORD)
    record.write_text(record.read_text().replace('"schema": 1', '"schema": 99'))

    with refuses(UnsupportedArtifact, varies=VARIES):
        launch.model_plan(NAME, SelectionRequest(offline=True), context=known(file))


def test_a_plain_store_is_mended_from_a_package(published: ModelFile) -> None:
    path = stored(published)
    flip(path)

    plan = launch.model_plan(NAME, SelectionRequest(offline=True), context=known(published))

    assert sha256(Path(plan.artifact.path).read_bytes()) == published.sha256


def test_what_was_made_here_and_is_damaged_is_to_be_made_again(published: ModelFile) -> None:
    made = replace(published, source=f"{MADE}Q8_0", quant="Q5_0", sha256=None)
    Library().root.mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(published.source.removeprefix("file:"), Library().root / "made.gguf")
    os.truncate(Library().keep(card_of(published), made, Path(copy)).path, 100)

    with refuses(BadArtifact, varies=VARIES):
        launch.model_plan(f"{NAME}:Q5_0", SelectionRequest(offline=True), context=known(published))


def test_the_next_command_has_no_flag_of_this_one(published: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(published)
    (entry,) = Library().installed()
    with settings.override(offline=True):
        assert unavailable.remedy(entry) == f"fetch it again: edgellm pull {NAME}:Q8_0"
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    assert unavailable.remedy(entry) == f"unset EDGELLM_OFFLINE, and fetch it again: edgellm pull {NAME}:Q8_0"


def test_no_time_is_noted_in_a_slot(slot: Path, published: ModelFile) -> None:
    """Its list of files has the record's hash, too."""
    path = stored(published)
    os.utime(path, ns=(1, 1))
    record = path.with_name(manifest.RECORD).read_bytes()
    (entry,) = Library().installed()

    assert manifest.check(entry).problem is None
    assert path.with_name(manifest.RECORD).read_bytes() == record
    assert manifest.is_hashed_each_time(entry)


def test_the_store_of_a_slot_is_known_by_its_names(slot: Path, own_home: Path) -> None:
    assert slot_of(Library().root) == Slots(slot.parent).slot("A").folder
    assert slot_of(own_home / "data" / "models") is None
    (slot / slots.RECORD).unlink()
    assert slot_of(Library().root) is None, "it is being installed"
