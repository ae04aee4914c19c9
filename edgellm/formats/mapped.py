"""Maps a file into memory, read-only, for the readers of headers and weights."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat

from edgellm.errors import BadArtifact

Buffer = bytes | mmap.mmap  # a file, read or mapped
_PIECE = 1024**2  # hashed at once: no signal is handled meanwhile


def map_file(path: str, suffix: str) -> mmap.mmap:
    """A read-only map of a regular file, which `suffix` names in hints. It is a context manager that closes itself.

    Raises:
        BadArtifact: no such file, an empty one, or none that ends: a pipe or a device would hang.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise BadArtifact(f"{path} is {kind}", hint=f"give the path of a {suffix} file")
        if status.st_size == 0:
            raise BadArtifact(f"{path} is empty", hint="fetch it again")
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}", hint="check the path and its permissions") from error


def sha256_of(view: mmap.mmap) -> str:
    """Of the whole file, in hex."""
    whole = hashlib.sha256()
    for start in range(0, len(view), _PIECE):
        whole.update(view[start : start + _PIECE])
    return whole.hexdigest()
