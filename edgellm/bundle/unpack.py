"""From a bundle to a folder of its own: each file is written as its hashes are found right, and none outside."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from edgellm.bundle.layout import unpacked_at
from edgellm.bundle.manifest import DIGEST, NAME, SIGNATURE, FileEntry
from edgellm.bundle.reader import Bundle
from edgellm.bundle.slots import BundleSlot, sync_folder
from edgellm.contract.source import Progress
from edgellm.errors import ArtifactError


def unpack(bundle: Bundle, folder: Path, progress: Progress, *, beside: BundleSlot | None = None) -> None:
    """Write all files of `bundle` below `folder`, which must not exist, and force them to the disk.

    What the slot `beside` holds already is linked from there, once it was hashed, and takes no room.

    Raises:
        BadArtifact: a byte of the bundle is wrong; what was written until then stays. OSError.
    """
    folder.mkdir(mode=0o755)
    there = _by_hash(beside)
    done = 0
    for entry, pieces in bundle.files():
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        other = there.get(entry.sha256)
        is_linked = other is not None and _linked(other, path, entry)
        with contextlib.nullcontext(None) if is_linked else open(path, "xb") as file:
            for piece in pieces:
                done += len(piece)
                progress(done, bundle.manifest.bytes, "unpacking")
                if file is not None:
                    file.write(piece)
            if file is not None:
                _settle(file, path, entry)
    parts = ((NAME, bundle.content), (DIGEST, bundle.digest), (SIGNATURE, bundle.signature))
    for name, content in parts:
        if content:
            (folder / name).write_bytes(content)
    for place, _, _ in os.walk(folder):
        sync_folder(Path(place))


def _settle(file: BinaryIO, path: Path, entry: FileEntry) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o755 if entry.executable else 0o644)
    # The time that the store's records have, so that it need not hash them again.
    os.utime(path, (unpacked_at(entry.sha256),) * 2)
    os.fsync(file.fileno())


def _by_hash(slot: BundleSlot | None) -> Mapping[str, Path]:
    if slot is None or slot.record is None:
        return {}
    try:
        manifest = slot.manifest()
    except (OSError, ArtifactError):  # damaged: then nothing of it is used
        return {}
    return {entry.sha256: slot.files / entry.path for entry in manifest.files}


def _linked(other: Path, path: Path, entry: FileEntry) -> bool:
    """Whether `path` is now the same file as `other`, whose bytes are still those of `entry`."""
    try:
        with open(other, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                return False
            mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode != (0o755 if entry.executable else 0o644):
            return False
        os.link(other, path)
    except OSError:  # it is gone, or the file system has no links
        return False
    return True
