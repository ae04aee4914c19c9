"""Whether a slot still is what was installed into it: cards wear out, and files are removed by hand."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgellm.bundle.manifest import MAX_BYTES, NAME, FileEntry, Manifest, decode
from edgellm.bundle.slots import HOME, RUN, VENV, BundleSlot
from edgellm.contract.source import Progress
from edgellm.errors import ArtifactError, BadArtifact, UnsupportedArtifact
from edgellm.files import open_named, read_regular

_PYTHON_S = 120.0  # for it to begin, on a card and beside others
_MAX_RECORD_BYTES = 16 * 1024**2


def require_whole(slot: BundleSlot, progress: Progress) -> None:
    """Read all of a slot.

    Raises:
        UnsupportedArtifact: nothing was installed into it, or not to the end. BadArtifact: it was damaged since.
    """
    record = slot.record
    if record is None:
        hint = "install a bundle first: edgellm bundle install FILE"
        raise UnsupportedArtifact(f"slot {slot.folder} holds nothing that is whole", hint=hint)
    if problem := damage(slot, progress):
        root = slot.folder.parent
        hint = f"install {record.name} release {record.release} again: edgellm bundle install FILE --root {root}"
        raise BadArtifact(f"slot {slot.folder} is damaged: {problem}", hint=hint)


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
        yield from _of_wheels(slot.folder / VENV)


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


def _of_wheels(venv: Path) -> Iterator[str]:
    """By the list that pip left of each."""
    lists = sorted(venv.glob("lib/python*/site-packages/*.dist-info/RECORD"))
    if not lists:
        yield f"no wheel is installed in {VENV}"
    for path in lists:
        name = path.parent.name.removesuffix(".dist-info")
        try:
            rows = list(csv.reader(read_regular(path, _MAX_RECORD_BYTES).decode().splitlines()))
            changed = [row[0] for row in rows if not _is_as_listed(path.parent.parent, row)]
        except (OSError, ValueError, csv.Error):
            yield f"what was installed of {name} cannot be read"
            continue
        if changed:
            yield f"{changed[0]} of {name} is gone or has another content"


def _is_as_listed(folder: Path, row: list[str]) -> bool:
    """Whether a file has its hash; true without one, as what Python compiled has none."""
    if not row or len(row) < 2 or not row[1]:
        return True
    method, _, digest = row[1].partition("=")
    with suppress(OSError), open_named(folder / row[0]) as file:
        found = hashlib.file_digest(file, method).digest()
        return base64.urlsafe_b64encode(found).decode().rstrip("=") == digest
    return False
