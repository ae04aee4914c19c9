"""Brings weights into memory: from the packed file, or from the model's own file, which is then packed and kept.

packed file, enough memory     read into 2 MiB pages
packed file, memory short      mapped: the system reads and drops pages as it can
none yet                       packed from the model's file, then written for the next time
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgellm.units import show_memory
from edgellm_bitnet import packed_file, packing
from edgellm_bitnet.arena import Arena
from edgellm_bitnet.layout import Layout, layout
from edgellm_bitnet.weights import Weights


@dataclass(frozen=True, slots=True)
class Loaded:
    arena: Arena
    layout: Layout
    how: str  # for people


def load(weights: Weights, head: str, threads: int, *, keep: bool = True, may_map: bool = True) -> Loaded:
    """Bring all weights into one block.

    Raises:
        BadArtifact, UnsupportedArtifact, BackendUnavailable.
    """
    started = time.monotonic()
    path = packed_file.path_of([*weights.fingerprint(), head])
    head_kind, embed_kind = packing.kinds(weights, head)

    def place(groups: Mapping[str, int]) -> Layout:
        return layout(
            weights.architecture, lambda role: packing.has_vector(weights, role), groups, head_kind, embed_kind
        )

    if (kept := _kept(path, place, threads, may_map=may_map)) is not None:
        arena, where, how = kept
        return Loaded(arena, where, f"{how} in {time.monotonic() - started:.2f} s")
    groups = packing.product_groups(weights)
    where = place(groups)
    arena = Arena(where.n_bytes)
    try:
        packing.fill(arena, where, weights, threads)
    except Exception:
        arena.close()
        raise
    how = f"{show_memory(arena.n_bytes)} packed in {time.monotonic() - started:.2f} s"
    if keep:
        sources = [str(entry[0]) for entry in weights.fingerprint() if isinstance(entry, tuple)]
        problem = packed_file.write(path, arena, sources, groups)
        how += f"; {problem or f'kept in {path}'}"
    return Loaded(arena, where, how)


def _kept(
    path: Path, place: Callable[[Mapping[str, int]], Layout], threads: int, *, may_map: bool
) -> tuple[Arena, Layout, str] | None:
    """The packed file; None where there is none, or it is damaged: then it is packed again."""
    header = packed_file.header_of(path)
    if header is None:
        return None
    arena: Arena | None = None
    try:
        where = place(header.groups)
        if where.n_bytes != header.n_bytes:
            return None
        if may_map and psutil.virtual_memory().available < where.n_bytes * 1.05:
            arena = Arena.of_file(path, packed_file.DATA_OFFSET, where.n_bytes)
            packed_file.check(path, arena, header.sum, threads)
            return arena, where, f"mapped from {path}, since memory is short,"
        arena = Arena(where.n_bytes)
        packed_file.read(path, arena, header.sum, threads)
        return arena, where, f"{show_memory(arena.n_bytes)} read from {path}"
    except (OSError, KeyError, packed_file.DamagedError):
        if arena is not None:
            arena.close()
        return None
