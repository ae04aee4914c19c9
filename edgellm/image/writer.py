"""Writing into an OCI layout: whole blobs first, forced to the disk, and the index that names them last.

A process may be killed at any byte: the index is the old one or the new one, and every blob that it names is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from edgellm.errors import UsageError
from edgellm.files import locked, write_atomic
from edgellm.formats.oci import layout
from edgellm.formats.oci.layout import (
    BLOBS,
    INDEX,
    INDEX_TYPE,
    MARK,
    REF_NAME,
    Descriptor,
    ImageManifest,
    Index,
    Layout,
)

_LOCK, _STAGING = ".lock", ".staging"
MAX_TAG = 128


class Blob:
    """A blob that is being written. `descriptor` is right once it was closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def descriptor(self, media_type: str, **more: Any) -> Descriptor:
        return Descriptor(media_type=media_type, digest=f"sha256:{self.sha256}", size=self.size, **more)


class LayoutWriter:
    """Adds an artifact to the layout in a folder, new or there already. Made by `writing_layout`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new: list[Path] = []

    @contextlib.contextmanager
    def blob(self) -> Iterator[Blob]:
        """
        Raises:
            OSError: it cannot be written.
        """
        part = self.folder / BLOBS / f".{uuid.uuid4().hex[:8]}.part"
        with open(part, "xb") as file:
            try:
                blob = Blob(file)
                yield blob
                file.flush()
                os.fsync(file.fileno())
                path = part.with_name(blob.sha256)
                if not path.exists():
                    self._new.append(path)
                os.replace(part, path)
            except BaseException:
                with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
                    file.close()
                part.unlink(missing_ok=True)
                raise

    def put(self, content: bytes, media_type: str, **more: Any) -> Descriptor:
        with self.blob() as blob:
            blob.write(content)
        return blob.descriptor(media_type, **more)

    def path(self, descriptor: Descriptor) -> Path:
        return self.folder / BLOBS / descriptor.sha256

    def finish(self, manifest: ImageManifest, tag: str, **more: Any) -> Descriptor:
        """Name the artifact `tag` in the index, in the place of what had that tag.

        Raises:
            OSError, BadArtifact: the index that is there is damaged.
        """
        row = self.put(record_bytes(manifest), layout.MANIFEST_TYPE, annotations={REF_NAME: tag}, **more)
        rows = Layout(self.folder).index().manifests if layout.is_layout(self.folder) else ()
        rows = tuple(sorted((*(r for r in rows if r.tag != tag), row), key=lambda r: (r.tag, r.digest)))
        _sync_folder(self.folder / BLOBS)
        write_atomic(self.folder / MARK, b'{"imageLayoutVersion":"%s"}' % layout.VERSION.encode(), sync=True)
        index = Index(schema_version=2, media_type=INDEX_TYPE, manifests=rows)
        write_atomic(self.folder / INDEX, record_bytes(index), sync=True)
        _sync_folder(self.folder)
        self._new.clear()
        return row

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder for what is packed afterwards."""
        folder = self.folder / _STAGING
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def undo(self) -> None:
        """Remove what was written and is named nowhere."""
        for path in self._new:
            path.unlink(missing_ok=True)
        if not layout.is_layout(self.folder):
            (self.folder / _LOCK).unlink(missing_ok=True)
            for folder in (self.folder / BLOBS, (self.folder / BLOBS).parent, self.folder):
                with contextlib.suppress(OSError):
                    folder.rmdir()


@contextlib.contextmanager
def writing_layout(folder: Path, tag: str, *, force: bool) -> Iterator[LayoutWriter]:
    """A writer for `folder`, held against others. What was not finished is removed again.

    Raises:
        UsageError: it is another kind of folder, the tag is taken and `force` is False, or somebody else writes to it.
        BadArtifact: its index is damaged. OSError: it cannot be written.
    """
    _check(folder, tag, force=force)
    (folder / BLOBS).mkdir(parents=True, exist_ok=True)

    def busy() -> None:
        raise UsageError(f"another process writes to {folder}", hint="try again later", param="output")

    writer = LayoutWriter(folder)
    try:
        with locked(folder / _LOCK, busy):
            _check(folder, tag, force=force)
            for part in (folder / BLOBS).glob(".*.part"):  # of a process that was killed
                part.unlink()
            shutil.rmtree(folder / _STAGING, ignore_errors=True)
            yield writer
    finally:
        writer.undo()


def _check(folder: Path, tag: str, *, force: bool) -> None:
    if not tag or len(tag) > MAX_TAG or not all(c.isascii() and (c.isalnum() or c in "._-") for c in tag):
        message = f"{tag!r} is no tag"
        raise UsageError(message, hint="letters, digits, points and dashes, as in 1.0", param="tag")
    if layout.is_layout(folder):
        if any(row.tag == tag for row in Layout(folder).index().manifests) and not force:
            message = f"{folder} has something tagged {tag} already"
            raise UsageError(message, hint="name another --tag, or replace it with --force", param="tag")
    elif folder.exists() and any(path.name not in (_LOCK, _STAGING, "blobs") for path in _listed(folder)):
        message = f"{folder} is there and is no OCI layout"
        raise UsageError(message, hint="name a new folder, or one that this command wrote", param="output")


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return [folder]
    return list(folder.iterdir())


def record_bytes(record: msgspec.Struct) -> bytes:
    """Equal records are equal bytes."""
    return msgspec.json.encode(record, order="sorted")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
