"""Records of stored models: copied, on read-only mounts, of other versions; and what is wrong with one, as data."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from support import gguf_writer
from support.read_only import run_read_only
from support.store_server import card_of, sha256
from support.waiting import PATIENCE_S

from edgellm import explain
from edgellm.store import content_hash, manifest
from edgellm.store.library import Library
from edgellm.store.manifest import StoredModel
from edgellm.store.record import read_record, size_problem
from edgellm.testing.limit import within
from edgellm.types.model import ModelFile
from edgellm.types.store_problem import FileUnreadable, Forbidden, OtherHash, OtherSize, RecordOfNewer, RecordUnreadable

LOCATE = """
import sys
from edgellm.store.library import Library
from edgellm.types.model import ModelFile
print(Library().locate(ModelFile(sys.argv[1], "Q8_0", sha256=sys.argv[2]), "tiny").path)
"""

NOBODY = 65534


@pytest.fixture
def stored(own_home: Path) -> StoredModel:
    """An entry with its file inside."""
    Library().root.mkdir(parents=True)
    path = gguf_writer.model().write(Library().root / "tiny.gguf")
    file = ModelFile("memory:x", "Q8_0", sha256=sha256(path.read_bytes()))
    Library().keep(card_of(file), file, path)
    (entry,) = Library().installed()
    return entry


def file_of(stored: StoredModel) -> ModelFile:
    return ModelFile(stored.source, stored.quant, sha256=stored.sha256)


def rewrite(stored: StoredModel, **changed: object) -> None:
    record = stored.folder / manifest.RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | changed))


def test_a_copy_with_new_times_on_a_read_only_mount_is_used(
    stored: StoredModel, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a layer of an image. It can be hashed, and the new times cannot be written down."""
    copied = own_home.parent / f"{own_home.name}-copy"
    shutil.copytree(own_home, copied, copy_function=shutil.copyfile)
    monkeypatch.setenv("EDGELLM_HOME", str(copied))
    (entry,) = Library().installed()
    before = (entry.folder / manifest.RECORD).read_bytes()

    done = run_read_only(copied, sys.executable, "-c", LOCATE, stored.source, stored.sha256)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(entry.folder / "tiny.gguf")
    assert (entry.folder / manifest.RECORD).read_bytes() == before


def test_a_record_of_a_later_version_is_read_as_far_as_it_is_known(stored: StoredModel) -> None:
    shape = json.loads((stored.folder / manifest.RECORD).read_text())["shape"] | {"novel": 1}
    files = [dataclasses.asdict(stored.files[0]) | {"novel": "x"}]
    rewrite(stored, novel={"a": [1]}, shape=shape, files=files)

    assert Library().installed() == [stored]
    assert Library().locate(file_of(stored), "tiny") == stored.artifact()


def test_a_record_of_an_earlier_version_is_read_with_what_it_has(stored: StoredModel) -> None:
    record = stored.folder / manifest.RECORD
    kept = {"schema", "model_id", "quant", "files"}
    record.write_text(json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key in kept}))

    (entry,) = Library().installed()
    assert (entry.problem, entry.format, entry.files) == (None, "gguf", stored.files)


def test_a_newer_schema_is_set_aside_and_named(stored: StoredModel) -> None:
    rewrite(stored, schema=99, files="no list any more")

    (entry,) = Library().installed()
    path = str(stored.folder / manifest.RECORD)
    assert entry.problem == RecordOfNewer(path, 99, 1)
    assert (entry.model_id, entry.quant) == ("tiny", "Q8_0")
    assert explain.stored(entry.problem).startswith("set aside: ")
    assert Library().locate(file_of(stored), "tiny") is None
    assert (stored.folder / "tiny.gguf").exists()


@pytest.mark.parametrize("content", ["{", '{"schema": 0}', '{"schema": 1, "files": []}', "\x00"])
def test_a_record_that_is_none(stored: StoredModel, content: str) -> None:
    (stored.folder / manifest.RECORD).write_text(content)
    (entry,) = Library().installed()
    assert isinstance(entry.problem, RecordUnreadable)
    assert explain.stored(entry.problem).startswith("damaged: ")


def test_damage_is_found_and_named(stored: StoredModel) -> None:
    path = stored.folder / "tiny.gguf"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert Library().installed()[0].problem is None, "sizes alone do not tell"
    (entry,) = Library().checked()
    assert entry.problem == OtherHash(str(path), sha256(bytes(content)), stored.sha256)

    os.truncate(path, 100)
    (entry,) = Library().installed()
    assert entry.problem == OtherSize(str(path), 100, stored.bytes)

    path.unlink()
    (entry,) = Library().installed()
    assert isinstance(entry.problem, FileUnreadable)
    assert entry.problem.path == str(path)


@pytest.mark.skipif(os.name != "posix", reason="pipes have no names here")
def test_a_pipe_in_the_place_of_a_file_is_damage_and_can_be_removed(stored: StoredModel) -> None:
    (stored.folder / "tiny.gguf").unlink()
    os.mkfifo(stored.folder / "tiny.gguf")

    (entry,) = within(PATIENCE_S, "checked", Library().checked)

    assert isinstance(entry.problem, FileUnreadable)
    Library().remove("tiny")
    assert Library().installed() == []


@pytest.mark.skipif(os.name != "posix", reason="pipes have no names here")
def test_a_pipe_has_no_hash(tmp_path: Path) -> None:
    """One may lie there since its size was looked at."""
    place = tmp_path / "tiny.gguf"
    os.mkfifo(place)

    with pytest.raises(OSError):
        within(PATIENCE_S, "file_hash", partial(content_hash.file_hash, str(place)))
    with pytest.raises(OSError):
        within(PATIENCE_S, "describe", partial(manifest.describe_file, place, inside=tmp_path, expected_sha256=""))


def test_a_path_with_a_nul_is_damage_and_can_be_removed(stored: StoredModel) -> None:
    (file,) = stored.files
    rewrite(stored, files=[dataclasses.asdict(file) | {"path": "tiny.gguf\0"}])

    (entry,) = Library().checked()

    assert isinstance(entry.problem, RecordUnreadable)
    assert Library().locate(file_of(stored), "tiny") is None
    Library().remove("tiny")
    assert Library().installed() == []


def test_a_file_that_changed_is_read_once(stored: StoredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was found may count: `edgellm list` does not hash gigabytes each time."""
    path, hashed = stored.folder / "tiny.gguf", []
    original = content_hash.file_hash
    monkeypatch.setattr(content_hash, "file_hash", lambda path: hashed.append(path) or original(path))
    assert (Library().checked(again=False)[0].problem, hashed) == (None, [])

    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    problem = OtherHash(str(path), sha256(bytes(content)), stored.sha256)
    assert [Library().checked(again=False)[0].problem for _ in range(2)] == [problem, problem]
    assert hashed == [str(path)]
    assert Library().checked()[0].problem == problem
    assert len(hashed) == 2

    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(2, 2))
    assert [Library().checked(again=False)[0].problem for _ in range(2)] == [None, None]
    assert len(hashed) == 3


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has no such users")
def test_what_another_user_keeps_to_himself_is_not_damaged(stored: StoredModel) -> None:
    path, record = stored.folder / "tiny.gguf", stored.folder / manifest.RECORD
    for file in (path, record):
        file.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(NOBODY)
    try:
        problems = [size_problem(path, stored.bytes), read_record(record, dict, schema=1, max_bytes=1000)]
    finally:
        os.seteuid(user)

    assert problems == [Forbidden(str(path)), Forbidden(str(record))]
    assert "damaged" not in explain.stored(Forbidden(str(path)))
    assert "fetched" not in explain.stored_remedy(Forbidden(str(path)))
