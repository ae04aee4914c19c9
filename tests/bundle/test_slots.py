"""Two slots, one link: what is served is whole before and after, wherever a process is killed."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support import bundles
from support.refusals import refuses

from edgellm.bundle import reader
from edgellm.bundle.layout import unpacked_at
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
    assert (two.current().record.name, two.spare().name) == (OLD, "B")
    whole(two, NEW)
    assert (two.current().name, two.spare().record.name) == ("B", OLD)
    two.activate(two.spare())
    assert two.current().record.name == OLD


def marked(two: Slots) -> str:
    """The slots that can be gone back to."""
    return "".join(slot.name for slot in two.all() if two.has_served(slot))


def test_a_slot_has_served_once_it_was_activated(tmp_path):
    two = Slots(tmp_path)
    two.clear(slot := two.spare())
    slot = two.finish(slot, record())
    assert marked(two) == ""
    two.activate(slot)
    assert marked(two) == "A"
    two.refused(slot)
    assert marked(two) == ""
    two.activate(slot)
    assert marked(two) == "A"
    two.clear(slot)
    assert marked(two) == ""


@pytest.mark.parametrize("goes_back", [False, True])
def test_what_was_never_seen_well_has_served_once_another_one_is_to_be(goes_back, tmp_path):
    """A process may have been killed before it could say so; not where the service failed with it."""
    two = Slots(tmp_path)
    whole(two)
    two.clear(slot := two.spare())
    two.activate(two.finish(slot, record(NEW)), instead_of="0" * 64)
    assert marked(two) == "A"
    two.activate(two.slot("A"), goes_back=goes_back)

    assert marked(two) == ("A" if goes_back else "AB")


def test_a_first_slot_that_the_service_refused_has_not_served(tmp_path):
    """Nothing was there to go back to, so it stayed the one that is served."""
    two = Slots(tmp_path)
    two.clear(slot := two.spare())
    two.activate(first := two.finish(slot, record()), instead_of="")
    two.refused(first)
    whole(two, NEW)

    assert marked(two) == "B"
    assert OLD not in two.releases()


@pytest.mark.parametrize(("releases", "known"), [("", "AB"), ("{", "AB"), ('{"new": 1}', "AB"), ('{"old": 1}', "A")])
def test_of_slots_of_before_the_releases_tell_which_has_served(releases, known, tmp_path):
    """A serves release 1, B has release 2. Where the list says nothing, both may have."""
    two = Slots(tmp_path)
    for release, slot in enumerate(two.all(), 1):
        slot.folder.mkdir()
        old = msgspec.structs.replace(record(), release=release)
        (slot.folder / "slot.json").write_bytes(msgspec.json.encode(old))
    os.symlink("A", tmp_path / "current")
    if releases:
        (tmp_path / "releases.json").write_text(releases)

    assert marked(two) == known
    two.activate(two.slot("B"))
    assert marked(two) == "AB"


@pytest.mark.parametrize("name", ["A", "cache"])
def test_nothing_is_removed_through_a_link(name, tmp_path):
    victim, root = tmp_path / "victim", tmp_path / "root"
    for folder in (victim, root):
        folder.mkdir()
    (victim / "slot.json").write_text("precious")
    (root / name).symlink_to(victim)
    two = Slots(root)
    with refuses(UsageError, param="root"):
        two.clear(two.spare())

    assert (victim / "slot.json").read_text() == "precious"
    assert os.listdir(root) == [name]


def test_what_is_not_whole_is_never_served(tmp_path):
    two = Slots(tmp_path)
    whole(two)
    two.clear(two.spare())

    with refuses(UnsupportedArtifact):
        two.activate(two.spare())
    assert two.current().record.name == OLD


@pytest.mark.parametrize("link", ["./A", "A/", "A/.", "../root/A", "absolute"])
def test_the_link_may_be_written_in_other_ways(link, tmp_path):
    two = Slots(tmp_path / "root")
    two.root.mkdir()
    whole(two)
    (two.root / "current").unlink()
    os.symlink(two.root / "A" if link == "absolute" else link, two.root / "current")

    assert (two.current().name, two.spare().name) == ("A", "B")


@pytest.mark.parametrize("damage", ["/etc", "A/../..", "C", "current", "a folder"])
def test_a_link_that_leads_elsewhere_is_refused(damage, tmp_path):
    """Either slot may be the one that is served."""
    two = Slots(tmp_path)
    if damage == "a folder":
        (tmp_path / "current").mkdir()
    else:
        os.symlink(damage, tmp_path / "current")

    with refuses(UsageError, param="root"):
        two.spare()


def test_a_slot_that_is_the_other_one_is_not_emptied(tmp_path):
    two = Slots(tmp_path)
    whole(two)
    (tmp_path / "A").rename(tmp_path / "B")
    (tmp_path / "A").symlink_to("B")

    with refuses(UsageError, param="root"):
        two.clear(two.spare())
    assert two.current().record.name == OLD


def test_one_process_at_a_time_changes_them(tmp_path):
    with Slots(tmp_path).held(), refuses(UsageError, param="root"), Slots(tmp_path).held():
        pass


def test_files_are_unpacked_as_they_were(tmp_path):
    bundles.make(tmp_path / "x")
    unpacked(tmp_path / "x", tmp_path / "out")

    for content in bundles.contents():
        path = tmp_path / "out" / content.path
        assert path.read_bytes() == content.data
        assert path.stat().st_mtime == unpacked_at(content.sha256)
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if content.executable else 0o644)
    assert (tmp_path / "out" / NAME).exists()


def test_another_content_in_the_same_place_has_another_time(tmp_path):
    """What was packed or read of a file is kept by its path, size and time."""
    statuses = []
    for number in range(2):
        files = [*bundles.contents(), Content.of("x", bytes([number]) * 1000)]
        bundles.make(tmp_path / str(number), files)
        unpacked(tmp_path / str(number), tmp_path / "out")
        statuses.append((tmp_path / "out" / "x").stat())
        shutil.rmtree(tmp_path / "out")
    assert statuses[0].st_size == statuses[1].st_size
    assert statuses[0].st_mtime != statuses[1].st_mtime


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
import hashlib, itertools, os, signal, sys
from pathlib import Path
from edgellm.app.bundle import install
from edgellm.bundle.slots import Slots
root, first = Path(sys.argv[3]), int(sys.argv[4])
NAMES = ("replace", "rename", "symlink", "unlink", "rmdir", "mkdir", "fsync", "utime", "link", "open", "fchmod", "sync")

def update(bundle, left):
    # As a child of its own: killed at call number `left` of those that change a name, open or force a file.
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    def counted(real):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call
    for name in NAMES:
        setattr(os, name, counted(getattr(os, name)))
    done = install.install(Path(bundle), install.InstallOptions(root, unsigned=True))
    with install.changing(root) as two:
        two.activate(done.slot)
    os._exit(0)

served = set()

def whole():
    two = Slots(root)
    slot, spare = two.current(), two.spare()
    served.add(slot.record.name)
    # What has been current can be gone back to, and nothing else.
    assert two.has_served(spare) == (spare.record is not None and spare.record.name in served)
    for entry in slot.manifest().files:
        assert hashlib.sha256((slot.files / entry.path).read_bytes()).hexdigest() == entry.sha256, entry.path
    assert (slot.folder / "run").exists()
    return slot.record.name

old, new = sys.argv[1:3]
assert update(old, 10**9) == 0
n_killed = 0
for step in itertools.count(first, 4):
    ended = update(new, step)
    name = whole()
    assert name in ("old", "new"), name
    if ended == 0:
        break
    assert ended == -signal.SIGKILL
    n_killed += 1
    if name == "new":  # killed after the link was changed
        assert update(old, 10**9) == 0
assert whole() == "new"
print(n_killed)
"""


@pytest.mark.slow(120)
@pytest.mark.parametrize("first", range(4))
def test_old_or_new_is_served_wherever_it_is_killed(first, tmp_path, this_machine):
    """At each call that changes a name or forces one to the disk: 200 of these at least, 50 in each of four tests."""
    root = tmp_path / "root"
    old, new = tmp_path / "old", tmp_path / "new"
    for path, name in ((old, OLD), (new, NEW)):
        more = [Content.of(f"more/{number}/x", f"{name} {number}".encode()) for number in range(20)]
        files = [*bundles.contents(), *more]
        bundles.make(path, files, signed=False, name=name, targets=(bundles.target(**this_machine),))
    command = [sys.executable, "-c", KILLED, str(old), str(new), str(root), str(first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 50
    names = {entry.name for entry in root.iterdir()}
    assert names == {"A", "B", "current", "cache", "releases.json", ".lock"}
