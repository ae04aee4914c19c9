"""One stored model: a folder that is complete or absent, and the JSON beside its files that says what they are.

The record also keeps size and time of each file as they were when the hash was checked, so that later starts need not
read gigabytes again: a file is hashed again only if its size or time changed.

A record of a later version is read as far as this one knows it; what a newer schema means is not guessed at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec

from edgellm.errors import IntegrityError
from edgellm.files import open_named, sync, write_atomic
from edgellm.store import content_hash
from edgellm.store.record import PathText, read_record, size_problem, unreadable
from edgellm.store.sealed import slot_of
from edgellm.types.model import Artifact, Shape
from edgellm.types.store_problem import OtherHash, StoreProblem

RECORD = "stored.json"
_SCHEMA = 1
_MAX_BYTES = 4 * 1024**2  # some thousand parts


@dataclass(frozen=True, slots=True)
class StoredFile:
    path: PathText  # inside the entry's folder, or absolute where the file lies elsewhere (`file:`, the hub's cache)
    bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredModel:
    """What is stored, from where, and what is wrong with it."""

    folder: Path
    model_id: str
    quant: str
    format: str = "gguf"
    source: str = ""
    license: str = ""
    fetched_at: str = ""  # ISO 8601, UTC
    ctx_train: int = 0
    shape: Shape | None = None
    files: tuple[StoredFile, ...] = ()
    problem: StoreProblem | None = None

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """Of the file; "" for a split set, whose parts have one each."""
        return self.files[0].sha256 if len(self.files) == 1 else ""

    def artifact(self) -> Artifact:
        paths = tuple(os.path.join(self.folder, file.path) for file in self.files)
        if self.format != "gguf" and len(paths) > 1:
            # A model that is a folder: ours, or, where the files lie in the hub's cache, the one of the file that was
            # named. Split files of GGUF are named one by one.
            paths = (paths[0],) if os.path.isabs(self.files[0].path) else (str(self.folder),)
        return Artifact(
            self.format, paths, self.model_id, self.quant, self.bytes, self.sha256, self.shape, self.ctx_train
        )


class _Record(msgspec.Struct, kw_only=True):
    """What stands in the record: a `StoredModel` without its folder and problem. Fields of later versions are passed
    over.
    """

    model_id: str
    quant: str
    format: str = "gguf"
    source: str = ""
    license: str = ""
    fetched_at: str = ""
    ctx_train: int = 0
    shape: Shape | None = None
    files: Annotated[tuple[StoredFile, ...], msgspec.Meta(min_length=1)]


def describe_file(path: Path, *, inside: Path, expected_sha256: str, written_sha256: str = "") -> StoredFile:
    """Hash one file (or take the hash that was made as it came), and compare with what was promised ("" = nothing was).

    Raises:
        IntegrityError: another hash.
    """
    with open_named(path) as file:
        sha256 = written_sha256 or hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
    if expected_sha256 and sha256 != expected_sha256.lower():
        raise IntegrityError(
            f"{path.name} ({status.st_size} bytes) has sha256 {sha256}, {expected_sha256} was promised",
            hint="fetch it again; if it repeats, the source has another file than the catalog knows",
        )
    name = path.relative_to(inside).as_posix() if path.is_relative_to(inside) else str(path)
    return StoredFile(name, status.st_size, status.st_mtime_ns, sha256)


def write(stored: StoredModel) -> None:
    """Write the record into the entry's folder, and force it and the files beside it to the disk."""
    for file in stored.files:
        if not os.path.isabs(file.path):
            sync(stored.folder / file.path)
    write_atomic(stored.folder / RECORD, record_of(stored), sync=True)


def record_of(stored: StoredModel) -> bytes:
    """What stands in the record."""
    content = asdict(stored) | {"schema": _SCHEMA}
    del content["folder"], content["problem"]
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def read(folder: Path) -> StoredModel | None:
    """The entry in `folder`; None where there is none. A record that cannot be understood has a `problem`."""
    try:
        record = read_record(folder / RECORD, _Record, schema=_SCHEMA, max_bytes=_MAX_BYTES)
    except FileNotFoundError:
        return None
    if not isinstance(record, _Record):
        return _unread(folder, record)
    return StoredModel(folder, **msgspec.structs.asdict(record))


def _unread(folder: Path, problem: StoreProblem) -> StoredModel:
    """An entry of which only the names of its folders, and the files in it, are known."""
    quant = folder.name.rpartition("-")[0] or folder.name
    return StoredModel(folder, folder.parent.name, quant, files=_unrecorded(folder), problem=problem)


def _unrecorded(folder: Path) -> tuple[StoredFile, ...]:
    """The files in an entry's folder, for their sizes."""
    files = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and path.name != RECORD:
                files.append(StoredFile(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns, ""))
    return tuple(files)


def check(stored: StoredModel, *, again: bool = True) -> StoredModel:
    """The entry as its record is now; `problem` says what is wrong. Changed files are hashed, where not `again` only if
    they changed since anybody did.
    """
    stored = check_sizes(stored)
    if stored.problem:
        return stored
    files = []
    for file in stored.files:
        path = stored.folder / file.path
        try:
            now = file
            if path.stat().st_mtime_ns != file.mtime_ns:
                sha256 = content_hash.hash_of([str(path)], again=again)
                now = describe_file(path, inside=stored.folder, expected_sha256="", written_sha256=sha256)
        except OSError as error:
            return replace(stored, problem=unreadable(path, error))
        if now.sha256 != file.sha256:
            return replace(stored, problem=OtherHash(str(path), now.sha256, file.sha256))
        files.append(now)
    if tuple(files) != stored.files and not _is_sealed(stored):
        # A folder that cannot be written (a layer of an image) is hashed at each start, and `edgellm doctor` says so.
        with contextlib.suppress(OSError):
            write(replace(stored, files=tuple(files)))
            return replace(stored, files=tuple(files))
    return stored


def check_sizes(stored: StoredModel) -> StoredModel:
    """The same without hashing: a file that is gone or of another size is a problem."""
    for file in () if stored.problem else stored.files:
        if problem := size_problem(stored.folder / file.path, file.bytes):
            return replace(stored, problem=problem)
    return stored


def is_hashed_each_time(stored: StoredModel) -> bool:
    """Whether a sound entry's files have other times than its record, and the right ones cannot be written into it."""
    times = {(stored.folder / file.path).stat().st_mtime_ns == file.mtime_ns for file in stored.files}
    return False in times and (_is_sealed(stored) or not os.access(stored.folder, os.W_OK))


def _is_sealed(stored: StoredModel) -> bool:
    return slot_of(stored.folder.parent.parent) is not None
