"""Partial files of downloads: which one a process works on, and which it may resume.

    NAME.<content>.incomplete             at rest: the next download resumes it
    NAME.<content>.<owner>.incomplete     being written by that process, or left by it when it was killed

`<content>` is made of the file's hash, or of etag and length, so that the rest of another file is never put behind it.
`<owner>` names host, process, its start and one download of it. A rename makes a file one's own, which only one process
can do: two never write into the same file, even on file systems where locks do nothing.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import os
import platform
import re
import time
import uuid
from pathlib import Path

from edgellm.contract.source import RemoteFile

_OWNER = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-(?P<start>[0-9]+)-[0-9a-f]{8}\.incomplete$")
_FOREIGN_S = 3600.0  # after which a file that a process of another host wrote last counts as left
_START_S = 2.0  # how exactly the start of a process is known


def part_of(file: RemoteFile, target: Path) -> Path:
    """Where the beginning of `file` rests between two downloads."""
    return target.with_name(f"{target.name}.{_content(file)}.incomplete")


def begun_bytes(file: RemoteFile, target: Path) -> int:
    """How much of `file` the next download has already."""
    return max((_size(path) for path in _left(target) if _is_of(path, file, target)), default=0)


def claim(file: RemoteFile, target: Path) -> Path:
    """A path of this download's own. What was left of the same file lies there, of several beginnings the longest.

    Everything else that was left of `target` is removed: its source has replaced the file since. So is a beginning
    without hash and etag, because nothing says that the rest would belong to it.
    """
    own = target.with_name(f"{target.name}.{_content(file)}.{_owner()}.incomplete")
    for path in sorted(_left(target), key=_size, reverse=True):
        with contextlib.suppress(OSError):  # another process was faster
            if _is_of(path, file, target) and (file.sha256 or file.etag) and not own.exists():
                os.rename(path, own)
            else:
                path.unlink()
    return own


def release(part: Path, file: RemoteFile, target: Path) -> None:
    """Lay a beginning to rest, where there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(part, part_of(file, target))


def _content(file: RemoteFile) -> str:
    return hashlib.sha256((file.sha256 or f"{file.etag} {file.bytes}").encode()).hexdigest()[:16]


def _is_of(path: Path, file: RemoteFile, target: Path) -> bool:
    return path.name.startswith(f"{target.name}.{_content(file)}.")


def _left(target: Path) -> list[Path]:
    """Partial files of `target` that no living process writes."""
    return [path for path in target.parent.glob(f"{glob.escape(target.name)}.*.incomplete") if not _has_owner(path)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@functools.cache
def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _owner() -> str:
    import psutil

    return f"{_host()}-{os.getpid()}-{psutil.Process().create_time():.0f}-{uuid.uuid4().hex[:8]}"


def _has_owner(path: Path) -> bool:
    """Whether the process that its name tells of is still there."""
    match = _OWNER.search(path.name)
    if match is None:
        return False
    import psutil

    if match["host"] != _host():
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < _FOREIGN_S
        return False
    try:
        return abs(psutil.Process(int(match["pid"])).create_time() - int(match["start"])) < _START_S
    except (psutil.Error, OverflowError):
        return False
