"""Whether a slot still is what was installed into it: cards wear out, and files are removed by hand."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from edgellm.bundle import inventory
from edgellm.bundle.manifest import MAX_BYTES, NAME, FileEntry, Manifest, decode
from edgellm.bundle.slots import HOME, INSTALLED, RUN, VENV, BundleSlot, Slots, installing
from edgellm.contract.source import Progress
from edgellm.errors import ArtifactError, BadArtifact, UnsupportedArtifact
from edgellm.files import DamagedRecord, open_named, read_regular

_PYTHON_S = 120.0  # for it to begin, on a card and beside others


def require_whole(slot: BundleSlot, progress: Progress) -> None:
    """Read all of a slot.

    Raises:
        UnsupportedArtifact: nothing was installed into it, or not to the end. BadArtifact: it was damaged since.
    """
    record = slot.record
    if record is None:
        hint = f"install a bundle first: {installing(slot.folder.parent)}"
        raise UnsupportedArtifact(f"slot {slot.folder} holds nothing that is whole", hint=hint)
    if problem := damage(slot, progress):
        raise BadArtifact(f"slot {slot.folder} is damaged: {problem}", hint=remedy(slot))


def remedy(slot: BundleSlot) -> str:
    """What to do about a damaged one."""
    record = slot.record
    what = f"{record.name} release {record.release}" if record is not None else "its bundle"
    flags = ["--allow-older"] if Slots(slot.folder.parent).is_older(slot) else []
    return f"install {what} again: {installing(slot.folder.parent, *flags)}"


def damage(slot: BundleSlot, progress: Progress) -> str:
    """What is not as it was installed; "" = nothing is known to be."""
    return next(_damages(slot, progress), "")


def _damages(slot: BundleSlot, progress: Progress) -> Iterator[str]:
    try:
        content = read_regular(slot.files / NAME, MAX_BYTES)
        manifest = decode(content)
    except (OSError, ArtifactError):
        yield f"its {NAME} cannot be read"
        return
    if slot.record is None or hashlib.sha256(content).hexdigest() != slot.record.sha256:
        yield f"its {NAME} has another content than it had"
        return
    for path in (slot.folder / RUN, slot.folder / HOME / "data" / "models"):
        if not os.access(path, os.X_OK):
            yield f"{path.relative_to(slot.folder)} is gone"
    yield from _of_files(slot, manifest, progress)
    if any(target.wheels for target in manifest.targets if target.name == slot.record.target):
        yield from _of_python(slot.folder / VENV)
    yield from _of_installed(slot.folder, slot.record.installed)


def _of_files(slot: BundleSlot, manifest: Manifest, progress: Progress) -> Iterator[str]:
    done, total = 0, manifest.bytes
    for entry in manifest.files:
        progress(done, total, f"reading slot {slot.name}")
        if problem := _differs(slot.files / entry.path, entry):
            yield f"{entry.path} {problem}"
        done += entry.bytes


def _differs(path: Path, entry: FileEntry) -> str:
    try:
        with open_named(path) as file:
            if os.fstat(file.fileno()).st_size != entry.bytes:
                return f"has not the {entry.bytes:,} bytes that it had"
            is_same = hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if is_same else "has another content than it had"


def _of_python(venv: Path) -> Iterator[str]:
    # Of the interpreter alone: no module of the bundle runs before the gate.
    command = [str(venv / "bin" / "python"), "-I", "-S", "-c", ""]
    try:
        status = subprocess.run(command, capture_output=True, timeout=_PYTHON_S, check=False).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        yield f"{VENV}/bin/python does not run: {getattr(error, 'strerror', '') or error}"
    else:
        if status:
            yield f"{VENV}/bin/python ended with status {status}"


def _of_installed(folder: Path, sha256: str) -> Iterator[str]:
    """By the list that the slot was finished with. Slots of before have none."""
    if not sha256:
        return
    try:
        with open_named(folder / INSTALLED) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                yield f"{INSTALLED} has another content than it had"
                return
            file.seek(0)
            problem = inventory.difference(folder, file.read())
    except (OSError, DamagedRecord):
        yield f"{INSTALLED} cannot be read"
        return
    if problem:
        yield problem
