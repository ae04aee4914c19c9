"""The packed block on disk, so that the next load is a read: one file a model, in the user's cache folder.

A file is `MAGIC`, a JSON header padded to 2 MiB, then the block. Its name is a digest of what it was made from; it is
written beside and renamed, so a half-written one never has that name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgellm.settings import cache_dir
from edgellm_bitnet.arena import Arena
from edgellm_bitnet.layout import VERSION

MAGIC = b"edgellm-bitnet packed\n"
DATA_OFFSET = 2 << 20  # a file system that can map large pages needs this alignment
PIECE = 8 << 20


def path_of(fingerprint: Sequence[object]) -> Path:
    digest = hashlib.sha256(json.dumps([VERSION, *fingerprint], default=str).encode()).hexdigest()[:24]
    return cache_dir() / "bitnet" / f"{digest}.packed"


def groups_of(path: Path) -> dict[str, int] | None:
    """What the file says of its products' scales (`packing.product_groups`); None where it is not there or not ours."""
    try:
        with path.open("rb") as file:
            head = file.read(DATA_OFFSET)
        if not head.startswith(MAGIC) or len(head) < DATA_OFFSET:
            return None
        return {str(key): int(group) for key, group in json.loads(head[len(MAGIC) :].rstrip(b"\0"))["groups"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def is_whole(path: Path, n_bytes: int) -> bool:
    """Whether the file is as long as it must be."""
    try:
        return path.stat().st_size == DATA_OFFSET + n_bytes
    except OSError:
        return False


def read(path: Path, arena: Arena, threads: int) -> None:
    """Fill the arena.

    Raises:
        OSError: the disk failed, or the file shrank.
    """
    view = memoryview(arena.bytes).cast("B")

    def piece(start: int) -> None:
        end, at = min(start + PIECE, arena.n_bytes), start
        while at < end:
            got = os.preadv(file.fileno(), [view[at:end]], DATA_OFFSET + at)
            if got <= 0:
                raise OSError(f"{path} ends at byte {DATA_OFFSET + at}")
            at += got

    with path.open("rb") as file, ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(piece, range(0, arena.n_bytes, PIECE)))


def write(path: Path, arena: Arena, sources: Sequence[str], groups: Mapping[str, int]) -> str:
    """Write the block; return what went wrong ("" = nothing). A full disk costs the next load time, nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _prune(path.parent, sources)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    except OSError as error:
        return f"the packed form cannot be kept: {error}"
    try:
        with os.fdopen(handle, "wb") as file:
            header = MAGIC + json.dumps({"sources": list(sources), "groups": dict(groups)}).encode()
            file.write(header.ljust(DATA_OFFSET, b"\0"))
            file.write(memoryview(arena.bytes).cast("B"))
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        return f"the packed form cannot be kept: {error}"
    return ""


def _prune(folder: Path, sources: Sequence[str]) -> None:
    """Drop what no load will read again: forms of the same file, and of files that are gone."""
    for path in folder.glob("*.packed"):
        with contextlib.suppress(OSError, ValueError):
            with path.open("rb") as file:
                head = file.read(DATA_OFFSET)
            known = json.loads(head.removeprefix(MAGIC).rstrip(b"\0"))["sources"]
            if known == list(sources) or not all(os.path.exists(source) for source in known):
                path.unlink()
