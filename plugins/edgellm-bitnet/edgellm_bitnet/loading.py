"""Weights in memory, by the shortest way there is: the packed file, or the model's own file, packed and kept.

packed file, enough memory     read into 2 MiB pages
packed file, memory short      mapped: the system reads and drops pages as it can
none yet                       packed from the model's file, then written for the next time
"""

from __future__ import annotations

import time
from dataclasses import dataclass

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
    known = packed_file.groups_of(path)
    groups = known if known is not None else packing.product_groups(weights)

    def place(groups: dict[str, int]) -> Layout:
        return layout(
            weights.architecture, lambda role: packing.has_vector(weights, role), groups, head_kind, embed_kind
        )

    try:
        where = place(groups)
    except KeyError:  # a packed file of another shape: not ours after all
        known, groups = None, packing.product_groups(weights)
        where = place(groups)
    if known is not None and packed_file.is_whole(path, where.n_bytes):
        if may_map and psutil.virtual_memory().available < where.n_bytes * 1.05:
            arena = Arena.of_file(path, packed_file.DATA_OFFSET, where.n_bytes)
            return Loaded(arena, where, f"mapped from {path}")
        arena = Arena(where.n_bytes)
        try:
            packed_file.read(path, arena, threads)
            return Loaded(arena, where, f"{_size(arena)} read from {path} in {time.monotonic() - started:.2f} s")
        except OSError:
            arena.close()
            path.unlink(missing_ok=True)
    arena = Arena(where.n_bytes)
    try:
        packing.fill(arena, where, weights, threads)
    except Exception:
        arena.close()
        raise
    how = f"{_size(arena)} packed in {time.monotonic() - started:.2f} s"
    if keep:
        sources = [str(entry[0]) for entry in weights.fingerprint() if isinstance(entry, tuple)]
        problem = packed_file.write(path, arena, sources, groups)
        how += f"; {problem or f'kept in {path}'}"
    return Loaded(arena, where, how)


def _size(arena: Arena) -> str:
    return show_memory(arena.n_bytes)
