"""The hash of a model's bytes, which an adapter is pinned to. Gigabytes are hashed once, and again when they change.

cache_dir()/hashes/<hash of the paths>.json    valid while all files have the same size and times
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence

import msgspec

from edgellm import settings
from edgellm.errors import BadArtifact
from edgellm.files import DamagedRecord, open_named, read_json_record, write_atomic
from edgellm.types.model import Artifact

_MAX_BYTES = 64 * 1024


class _Kept(msgspec.Struct):
    stamp: str
    sha256: str


def content_hash(artifact: Artifact) -> str:
    """SHA-256 of its file, in hex; of a split set, that of its parts' hashes, one a line.

    Raises:
        BadArtifact: a file cannot be read, or it is a folder.
    """
    if artifact.sha256 and len(artifact.paths) == 1:
        return artifact.sha256
    try:
        return hash_of(artifact.paths)
    except OSError as error:
        message = f"{error.filename or artifact.path} cannot be read: {error.strerror}"
        raise BadArtifact(message, hint="check the path and its permissions") from error


def hash_of(paths: Sequence[str], *, again: bool = False) -> str:
    """The same of these files, kept for the next time. `again`: whatever was kept.

    Raises:
        OSError: one cannot be read.
    """
    stamp = " ".join(map(_stamp, paths))
    name = hashlib.sha256("\0".join(map(os.path.abspath, paths)).encode(errors="surrogateescape"))
    place = settings.current().cache_dir / "hashes" / f"{name.hexdigest()[:32]}.json"
    if not again:
        with contextlib.suppress(OSError, DamagedRecord):
            kept = read_json_record(place, _Kept, _MAX_BYTES)
            if kept.stamp == stamp:
                return kept.sha256
    parts = [file_hash(path) for path in paths]
    sha256 = parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, msgspec.json.encode(_Kept(stamp, sha256)))
    return sha256


def _stamp(path: str) -> str:
    """The second time, of the last change of a file's bytes or names, is the system's: `touch` cannot set it. Not the
    inode, which is another one at each mount of some file systems."""
    status = os.stat(path)
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def file_hash(path: str) -> str:
    with open_named(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
