"""A slot that was damaged since it was installed is told from a whole one."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support import bundles
from support.refusals import refuses

from edgellm.bundle import reader
from edgellm.bundle.slot_check import damage, remedy, require_whole
from edgellm.bundle.slots import INSTALLED, RECORD, BundleSlot, SlotRecord, Slots
from edgellm.bundle.unpack import unpack
from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.store.library import silent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links of a POSIX system")

WHEEL = bundles.Content.of("wheels/core-1.0-py3-none-any.whl", b"PK")
ODD = os.fsdecode(b"\xff \n.py") if sys.platform == "linux" else " \n.py"  # elsewhere names are text
MODEL = f"bundle/{bundles.FOLDER}/toy.gguf"


@pytest.fixture
def slot(tmp_path: Path) -> BundleSlot:
    """One with a wheel, installed as pip does."""
    target = bundles.target(wheels=(WHEEL.path,), python="3.13")
    bundles.make(tmp_path / "x", [*bundles.contents(), WHEEL], targets=(target,))
    two = Slots(tmp_path / "root")
    two.root.mkdir()
    two.clear(slot := two.spare())
    with reader.opened(tmp_path / "x") as bundle:
        unpack(bundle, slot.files, silent)
        record = SlotRecord(name="box", release=1, sha256=bundle.sha256, target="box")
    (slot.folder / "home" / "data").mkdir(parents=True)
    (slot.folder / "home" / "data" / "models").symlink_to("../../bundle/models")
    (slot.folder / "run").write_text("#!/bin/sh\n")
    (slot.folder / "run").chmod(0o755)
    (slot.folder / "edgellm.service").write_text("[Unit]\n")
    venv.create(slot.folder / "venv", symlinks=True)
    put_wheel(slot.folder)
    return two.finish(slot, record)


@pytest.mark.parametrize("content", [b'[["a", 1, "b", ' + b"[" * 10_000, b'[["\xec", 1, "b"]]', b"[", b"{}"])
def test_a_list_of_what_was_installed_that_is_none_is_told(slot: BundleSlot, content: bytes) -> None:
    (slot.folder / INSTALLED).write_bytes(content)
    assert slot.record is not None
    changed = msgspec.structs.replace(slot.record, installed=hashlib.sha256(content).hexdigest())
    (slot.folder / RECORD).write_bytes(msgspec.json.encode(changed))
    assert "installed.json cannot be read" in str(damage(Slots(slot.folder.parent).slot(slot.name), silent))


def test_the_command_that_mends_a_slot_is_whole(slot: BundleSlot) -> None:
    """An older release is installed again on purpose only."""
    root = slot.folder.parent
    command = f"edgellm bundle install FILE --key KEY --root {root}"
    assert remedy(slot) == f"install box release 1 again: {command}"
    (root / "releases.json").write_text('{"box": 2}')
    assert remedy(slot).endswith(f"{command} --allow-older")
    Slots(root).activate(slot)
    assert remedy(slot).endswith(command)


def packages(folder: Path) -> Path:
    (found,) = folder.glob("venv/lib/python*/site-packages")
    return found


def put_wheel(folder: Path) -> None:
    """One whose own list is wrong in all that pip does not look at."""
    info = packages(folder) / "core-1.0.dist-info"
    info.mkdir()
    (info.parent / "core.py").write_bytes(b"x = 1\n")
    (info.parent / "link.py").symlink_to("core.py")
    (info.parent / ODD).write_bytes(b"")
    listed = "core.py,sha256=AAAA,6\ncore.py,shake_128=AAAA,6\ngone.py,md9=AAAA,1\n\0,sha256=A=,1\n"
    (info / "RECORD").write_text(listed)
    (folder / "python").mkdir()
    (folder / "python" / "libpython.so").write_bytes(b"ELF")


def changed(path: Path, at: int = 0) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])


def stopped(folder: Path) -> None:
    python = folder / "venv" / "bin" / "python"
    python.unlink()
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a model that is gone": lambda folder: (folder / MODEL).unlink(),
    "a byte of a model": lambda folder: changed(folder / MODEL, 299_999),
    "a model that was cut": lambda folder: (folder / MODEL).write_bytes(b"x"),
    "the manifest": lambda folder: changed(folder / "bundle" / "manifest.json"),
    "another manifest": lambda folder: (folder / "bundle" / "manifest.json").write_bytes(
        (folder / "bundle" / "manifest.json").read_bytes() + b"\n"
    ),
    "run": lambda folder: (folder / "run").unlink(),
    "run that is empty": lambda folder: (folder / "run").write_bytes(b""),
    "a byte of run": lambda folder: changed(folder / "run", 3),
    "a byte of the unit": lambda folder: changed(folder / "edgellm.service"),
    "a store elsewhere": lambda folder: (
        (folder / "home" / "data" / "models").unlink() or (folder / "home" / "data" / "models").symlink_to("..")
    ),
    "the store": lambda folder: (folder / "home" / "data" / "models").unlink(),
    "python that is gone": lambda folder: (folder / "venv" / "bin" / "python").unlink(),
    "python that fails": stopped,
    "a module that is gone": lambda folder: (packages(folder) / "core.py").unlink(),
    "a byte of a module": lambda folder: changed(packages(folder) / "core.py"),
    "a file whose name is no text": lambda folder: (packages(folder) / ODD).unlink(),
    "a module in the place of a link": lambda folder: (
        (packages(folder) / "link.py").unlink() or (packages(folder) / "link.py").write_bytes(b"x = 1\n")
    ),
    "a folder in the place of a module": lambda folder: (
        (packages(folder) / "core.py").unlink() or (packages(folder) / "core.py").mkdir()
    ),
    "a link that leads elsewhere": lambda folder: (
        (packages(folder) / "link.py").unlink() or (packages(folder) / "link.py").symlink_to("other.py")
    ),
    "the bundle's python": lambda folder: changed(folder / "python" / "libpython.so"),
    "all of a wheel": lambda folder: shutil.rmtree(packages(folder)),
    "the list that is gone": lambda folder: (folder / "installed.json").unlink(),
    "a byte of the list": lambda folder: changed(folder / "installed.json", 9),
}


def test_a_whole_one_is_whole(slot):
    require_whole(slot, silent)
    assert damage(slot, silent) == ""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_one_is_refused(name, slot):
    DAMAGES[name](slot.folder)

    with refuses(BadArtifact, varies=r"(?<=/lib/)python3\.\d+|%FF"):
        require_whole(slot, silent)


def test_what_python_compiles_is_no_damage(slot):
    (packages(slot.folder) / "__pycache__").mkdir()
    (packages(slot.folder) / "__pycache__" / "core.pyc").write_bytes(b"x")

    require_whole(slot, silent)


def test_a_slot_of_before_without_a_list_is_whole(slot):
    """Its files, and that its Python begins, are still looked at."""
    old = SlotRecord(name="box", release=1, sha256=slot.record.sha256, target="box")
    (slot.folder / "installed.json").unlink()
    (slot.folder / "slot.json").write_bytes(msgspec.json.encode(old))
    changed(packages(slot.folder) / "core.py")
    (before,) = (one for one in Slots(slot.folder.parent).all() if one.record)

    assert damage(before, silent) == ""
    stopped(slot.folder)
    assert damage(before, silent)


def test_without_wheels_run_is_compared_too(slot):
    target = bundles.target()
    bundles.make(slot.folder.parent / "y", targets=(target,))
    two = Slots(slot.folder.parent)
    two.clear(slot)
    with reader.opened(slot.folder.parent / "y") as bundle:
        unpack(bundle, slot.files, silent)
        record = SlotRecord(name="box", release=1, sha256=bundle.sha256, target="box")
    (slot.folder / "home" / "data" / "models").mkdir(parents=True)
    (slot.folder / "run").write_text("#!/bin/sh\n")
    (slot.folder / "run").chmod(0o755)
    slot = two.finish(slot, record)
    require_whole(slot, silent)
    (slot.folder / "run").write_bytes(b"")

    assert damage(slot, silent) == "run has another content than it had"


def test_nothing_is_not_whole(tmp_path):
    with refuses(UnsupportedArtifact):
        require_whole(Slots(tmp_path).spare(), silent)
