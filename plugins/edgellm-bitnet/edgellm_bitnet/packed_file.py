"""The packed block on disk, so that the next load is a read: one file a model, in the user's cache folder.

A file is `MAGIC`, a JSON header padded to 2 MiB, then the block. Its name is a digest of what it was made from. It is
written under another name and renamed, so a half-written file never has that name. The header holds the sum of the
block's 64-bit words, because after a power failure a file may have its length but not its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgellm import settings
from edgellm.files import atomic_writer, open_named
from edgellm_bitnet.arena import Arena
from edgellm_bitnet.layout import VERSION

MAGIC = b"edgellm-bitnet packed\n"
DATA_OFFSET = 2 << 20  # a file system that can map large pages needs this alignment
PIECE = 8 << 20
ABANDONED_S = 24 * 3600.0  # a half-written file of that age has no writer


class DamagedError(Exception):
    """The file is not what its header says."""


@dataclass(frozen=True, slots=True)
class Header:
    """Of a packed file: where it comes from, columns that share a scale in each product, and the sum of its words."""

    sources: list[str]
    groups: dict[str, int]
    sum: int
    n_bytes: int


def path_of(fingerprint: Sequence[object]) -> Path:
    digest = hashlib.sha256(json.dumps([VERSION, *fingerprint], default=str).encode()).hexdigest()[:24]
    return settings.current().cache_dir / "bitnet" / f"{digest}.packed"


def header_of(path: Path) -> Header | None:
    """None where there is no file, or one that is not ours or not whole."""
    try:
        with open_named(path) as file:
            head = file.read(DATA_OFFSET)
            n_bytes = os.fstat(file.fileno()).st_size - DATA_OFFSET
        if not head.startswith(MAGIC) or n_bytes < 0:
            return None
        fields = json.loads(head.removeprefix(MAGIC).rstrip(b"\0"))
        groups = {str(key): int(group) for key, group in fields["groups"].items()}
        header = Header([str(source) for source in fields["sources"]], groups, int(fields["sum"]), int(fields["bytes"]))
        return header if header.n_bytes == n_bytes else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, OverflowError):
        return None


def read(path: Path, arena: Arena, total: int, threads: int) -> None:
    """Fill the arena, and compare its sum with the header's.

    Raises:
        OSError: the disk failed. DamagedError: the file is shorter, or has another sum.
    """
    view = memoryview(arena.bytes.data).cast("B")

    def piece(start: int) -> int:
        end, at = min(start + PIECE, arena.n_bytes), start
        while at < end:
            n_read = os.preadv(file.fileno(), [view[at:end]], DATA_OFFSET + at)
            if n_read <= 0:
                raise DamagedError(f"{path} ends at byte {DATA_OFFSET + at}")
            at += n_read
        return _sum(arena, start, end)

    with open_named(path) as file:
        _compare(path, arena, piece, total, threads)


def check(path: Path, arena: Arena, total: int, threads: int) -> None:
    """The sum of an arena that is mapped from the file: reads all of it once.

    Raises:
        DamagedError: it is not the header's.
    """
    _compare(path, arena, lambda start: _sum(arena, start, min(start + PIECE, arena.n_bytes)), total, threads)


def write(path: Path, arena: Arena, sources: Sequence[str], groups: Mapping[str, int]) -> str:
    """Write the block; return what went wrong ("" = nothing). A full disk costs the next load time, nothing else."""
    total = sum(_sum(arena, start, min(start + PIECE, arena.n_bytes)) for start in range(0, arena.n_bytes, PIECE))
    header = {"sources": list(sources), "groups": dict(groups), "sum": total % 2**64, "bytes": arena.n_bytes}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _prune(path.parent, sources)
        with atomic_writer(path) as file:
            file.write((MAGIC + json.dumps(header).encode()).ljust(DATA_OFFSET, b"\0"))
            file.write(memoryview(arena.bytes.data).cast("B"))
    except OSError as error:
        return f"the packed form cannot be kept: {error}"
    return ""


def _compare(path: Path, arena: Arena, piece: Callable[[int], int], total: int, threads: int) -> None:
    with ThreadPoolExecutor(max(1, threads)) as pool:
        checksum = sum(pool.map(piece, range(0, arena.n_bytes, PIECE))) % 2**64
    if checksum != total:
        raise DamagedError(f"the words of {path} add up to {checksum}, not {total}")


def _sum(arena: Arena, start: int, end: int) -> int:
    return int(np.add.reduce(arena.bytes[start:end].view(np.uint64)))


def _prune(folder: Path, sources: Sequence[str]) -> None:
    """Delete what no load will read again: other forms of the same files, forms of deleted files, unfinished ones."""
    for path in folder.glob("*.packed"):
        header = header_of(path)
        if header is None or header.sources == list(sources) or not all(map(os.path.exists, header.sources)):
            with contextlib.suppress(OSError):
                path.unlink()
    for path in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()
