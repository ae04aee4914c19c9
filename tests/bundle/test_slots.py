"""Two slots, one link: what is served is whole before and after, wherever a process is killed."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import bundles
from support.refusals import refuses

from edgellm.bundle import reader
from edgellm.bundle.layout import MTIME
from edgellm.bundle.manifest import NAME
from edgellm.bundle.slots import SlotRecord, Slots
from edgellm.bundle.unpack import unpack
from edgellm.bundle.writer import Content
from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError
from edgellm.store.library import silent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links of a POSIX system")

OLD, NEW = "old", "new"


def record(name: str = OLD) -> SlotRecord:
    return SlotRecord(name=name, release=1, sha256="0" * 64, target="box")


def whole(two: Slots, name: str = OLD) -> None:
    slot = two.spare()
    two.clear(slot)
    two.activate(two.finish(slot, record(name)))


def unpacked(path: Path, folder: Path, **options: object) -> None:
    with reader.opened(path) as bundle:
        unpack(bundle, folder, silent, **options)


def test_one_is_served_and_the_other_is_spare(tmp_path):
    two = Slots(tmp_path)
    assert (two.current(), two.spare().name) == (None, "A")
    whole(two, OLD)
    assert (two.current().record, two.spare().name) == (record(OLD), "B")
    whole(two, NEW)
    assert (two.current().name, two.spare().record) == ("B", record(OLD))
    two.activate(two.spare())
    assert two.current().record == record(OLD)


def test_what_is_not_whole_is_never_served(tmp_path):
    two = Slots(tmp_path)
    whole(two)
    two.clear(two.spare())

    with refuses(UnsupportedArtifact):
        two.activate(two.spare())
    assert two.current().record == record()


@pytest.mark.parametrize("damage", ["/etc", "A/../..", "C"])
def test_a_link_that_leads_elsewhere_is_no_slot(damage, tmp_path):
    os.symlink(damage, tmp_path / "current")

    assert Slots(tmp_path).current() is None


def test_one_process_at_a_time_changes_them(tmp_path):
    with Slots(tmp_path).held(), refuses(UsageError, param="root"), Slots(tmp_path).held():
        pass


def test_files_are_unpacked_as_they_were(tmp_path):
    bundles.make(tmp_path / "x")
    unpacked(tmp_path / "x", tmp_path / "out")

    for content in bundles.contents():
        path = tmp_path / "out" / content.path
        assert path.read_bytes() == content.data
        assert path.stat().st_mtime == MTIME
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if content.executable else 0o644)
    assert (tmp_path / "out" / NAME).exists()


def test_what_the_other_slot_has_takes_no_room(tmp_path):
    two = Slots(tmp_path / "root")
    bundles.make(tmp_path / "x")
    two.clear(slot := two.spare())
    unpacked(tmp_path / "x", slot.files)
    two.activate(two.finish(slot, record()))
    model = f"{bundles.FOLDER}/toy.gguf"
    (slot.files / "run").write_bytes(b"#!/bin/hi\n")  # changed since

    unpacked(tmp_path / "x", tmp_path / "out", beside=two.current())
    assert (tmp_path / "out" / model).samefile(slot.files / model)
    assert (tmp_path / "out" / "run").read_bytes() == b"#!/bin/sh\n"


def test_nothing_is_written_outside(tmp_path):
    """Of a bundle with a wrong byte in each of its parts."""
    path, place = tmp_path / "x", tmp_path / "place"
    bundles.make(path, [*bundles.contents(20_000), Content.of("a/b/c", b"deep")])
    content, rng = path.read_bytes(), random.Random(3)
    with reader.opened(path) as bundle:
        begins = bundle.file.tell()
    for no in range(60):
        at = rng.randrange(begins, len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        (place / str(no)).mkdir(parents=True)
        with pytest.raises(BadArtifact):
            unpacked(path, place / str(no) / "out")
        assert [entry.name for entry in (place / str(no)).iterdir()] == ["out"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["place", "x"]


KILLED = """
import os, signal, sys
from pathlib import Path
from edgellm.bundle import slots, unpack
from edgellm.app.bundle import install
from edgellm.bundle.slots import Slots
left, bundle, root = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])

def counted(name, real):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(os, name, call)

for name in ("replace", "rename", "symlink", "unlink", "rmdir", "mkdir", "fsync", "utime", "link", "open"):
    counted(name, getattr(os, name))
options = install.InstallOptions(root, unsigned=True)
done = install.install(bundle, options)
install.activate(root, done.slot.name)
"""


def kill_at(step: int, bundle: Path, root: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(step), str(bundle), str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.slow(30)
@pytest.mark.parametrize("first", range(4))
def test_old_or_new_is_served_wherever_it_is_killed(first, tmp_path, this_machine):
    """At each call that changes a name or forces one to the disk, up to 50 of these for each of four tests."""
    root = tmp_path / "root"
    old, new = tmp_path / "old", tmp_path / "new"
    for path, name in ((old, OLD), (new, NEW)):
        bundles.make(path, signed=False, name=name, targets=(bundles.target(**this_machine),))
    assert kill_at(10**9, old, root) == 0
    two = Slots(root)
    for step in range(first, 400, 4):
        ended = kill_at(step, new, root)
        current = two.current()
        assert current is not None
        assert current.record is not None
        assert current.record.name in (OLD, NEW)
        assert (current.files / bundles.FOLDER / "toy.gguf").stat().st_size == 300_000
        assert (current.folder / "run").exists()
        if ended == 0:
            break
        if current.record.name == NEW:  # killed after the link was changed
            assert kill_at(10**9, old, root) == 0
    assert two.current().record.name == NEW
    names = {entry.name for entry in root.iterdir()}
    assert names == {"A", "B", "current", "cache", ".lock"}
