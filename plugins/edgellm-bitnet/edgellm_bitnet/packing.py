"""From a file's tensors to the packed block: decides the layout, then fills it. Native code does the bit work."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.errors import BackendUnavailable, BadArtifact, UnsupportedArtifact
from edgellm.formats import rope
from edgellm.formats.rope import RopeScaling
from edgellm_bitnet import layout, native
from edgellm_bitnet.architecture import GEMMA_LOCAL_THETA, Architecture
from edgellm_bitnet.arena import Arena
from edgellm_bitnet.codecs import master
from edgellm_bitnet.layout import GROUPS, HEAD_KINDS, REAL_TYPES, Layout, Slab
from edgellm_bitnet.matrix import COLUMN_ALIGN, PANEL, padded
from edgellm_bitnet.options import REQUANTIZED
from edgellm_bitnet.weights import TERNARY_TYPES, Raw, Weights, needed, reals

# Bytes of a block, and where its half scale is.
SCALES = {
    "TQ2_0": (66, 64), "TQ1_0": (54, 52), "Q2_0": (18, 0), "Q1_0": (18, 0), "Q8_0": (34, 0), "Q4_0": (18, 0),
    "Q6_K": (210, 208),
}  # fmt: skip
ROTATED = ("attn_q", "attn_k")
ROWS_AT_ONCE = 1024  # of a head that is requantized: bounds the float copy


def head_name(weights: Weights) -> str:
    """The output matrix, or the embedding where they are one."""
    return "output.weight" if weights.matrix("output.weight") is not None else "token_embd.weight"


def kinds(weights: Weights, head: str = "") -> tuple[tuple[int, int], tuple[int, int] | None]:
    """(kind, group) of the output matrix, and of an embedding that must be packed beside it.

    Raises:
        BadArtifact, UnsupportedArtifact: missing, or of a type that is not computed with.
    """
    arch = weights.architecture
    output = needed(weights, head_name(weights), arch.vocab, arch.hidden)
    embed = needed(weights, "token_embd.weight", arch.vocab, arch.hidden)
    same = embed.name == output.name
    if head and output.type not in REAL_TYPES:
        raise UnsupportedArtifact(
            f"head={head}: tensor {output.name} of {weights.where} is {output.type} already, and is not requantized",
            hint=f"leave the option out; it is for {', '.join(REAL_TYPES)}",
        )
    return _head_kind(output, head), None if same or embed.type in REAL_TYPES else _head_kind(embed, "")


def product_groups(weights: Weights) -> dict[str, int]:
    """Columns that share a scale, by product; 0 = all columns share one.

    A tensor with block scales also gets 0 where all blocks but those of zeros have the same scale. That is so in models
    that were trained ternary.

    Raises:
        BadArtifact, UnsupportedArtifact: see `weights.needed`; or a type that is not ternary.
    """
    arch, groups = weights.architecture, {}
    for layer in range(arch.layers):
        for key, parts in layout.fused(arch).items():
            raws = [needed(weights, f"blk.{layer}.{name}.weight", rows, cols) for name, rows, cols in parts]
            groups[f"{layer}.{key}"] = _group(raws, weights.where)
    return groups


def _group(raws: Sequence[Raw], where: str) -> int:
    for raw in raws:
        if raw.type not in GROUPS:
            raise UnsupportedArtifact(
                f"{where}: tensor {raw.name} is {raw.type}, not ternary",
                hint="a file that mixes types runs on the gguf backend",
            )
    groups = {GROUPS[raw.type] for raw in raws}
    if len(groups) > 1:
        names = ", ".join(raw.name for raw in raws)
        raise UnsupportedArtifact(f"{where}: {names} have scales for {sorted(groups)} columns each")
    group = groups.pop()
    return 0 if group and all(_one_scale(raw) is not None for raw in raws) else group


def has_vector(weights: Weights, role: str) -> bool:
    """Whether the file has that norm of a layer."""
    arch, tensor = weights.architecture, role.split(".")[2]
    sizes = {name: size for name, size, _ in layout.layer_vectors(arch).values()}
    sizes |= dict(layout.input_vectors(arch).values())
    return weights.vector(role, sizes[tensor]) is not None


def _head_kind(raw: Raw, requantize: str) -> tuple[int, int]:
    if requantize:
        if requantize not in REQUANTIZED:
            raise UnsupportedArtifact(f"head={requantize} is not one of {', '.join(REQUANTIZED)}")
        kind, group = REQUANTIZED[requantize]
        if group and raw.cols % group:
            raise UnsupportedArtifact(
                f"head={requantize}: rows of {raw.cols} weights are not a multiple of {group}", hint="head=q8 takes any"
            )
        return kind, group
    if raw.type not in HEAD_KINDS:
        raise UnsupportedArtifact(
            f"tensor {raw.name} is {raw.type}; heads and embeddings are computed in {', '.join(HEAD_KINDS)}",
            hint="convert the file again with `edgellm convert --embedding q6_k`",
        )
    return HEAD_KINDS[raw.type]


def _one_scale(raw: Raw) -> float | None:
    scale = ctypes.c_float()
    source = native.SOURCES.index(raw.type.lower())
    same = native.library().bn_one_scale(source, raw.data.ctypes.data, raw.rows, raw.cols, scale)
    return float(scale.value) if same else None


def fill(
    arena: Arena, where: Layout, weights: Weights, threads: int, progress: Callable[[float], None] | None = None
) -> None:
    """Write every slab. `progress` hears the share done.

    Raises:
        BadArtifact: a code that means nothing, or a value that is not finite.
    """
    arch = weights.architecture
    for layer in range(arch.layers):
        for key, parts in layout.fused(arch).items():
            slab, row = where.slabs[f"{layer}.{key}"], 0
            for name, rows, cols in parts:
                raw = needed(weights, f"blk.{layer}.{name}.weight", rows, cols)
                _pack_ternary(arena.matrix(slab), row, raw, weights.where, threads)
                if name in ROTATED and not arch.family.rope_neox:
                    _split_pairs(arena, slab, row, rows, arch)
                row += padded(rows, PANEL)
                weights.release()
        _check_input_norms(where, layer, weights.where)
        vectors = {f"{layer}.{key}": (name, size) for key, (name, size, _) in layout.layer_vectors(arch).items()}
        vectors |= {f"{layer}.in.{key}": pair for key, pair in layout.input_vectors(arch).items()}
        for key, (name, size) in vectors.items():
            if key in where.slabs:
                _put_vector(arena, where.slabs[key], weights, f"blk.{layer}.{name}.weight", size)
        if progress:
            progress((layer + 1) / (arch.layers + 1))
    _put_vector(arena, where.slabs["output_norm"], weights, "output_norm.weight", arch.hidden)
    head = needed(weights, head_name(weights), arch.vocab, arch.hidden)
    _check_head(head, weights.where)
    _pack_head(arena, where.slabs["head"], head, threads)
    weights.release()
    embed = needed(weights, "token_embd.weight", arch.vocab, arch.hidden)
    if embed.name != head.name:
        _check_head(embed, weights.where)
    if "embed" in where.slabs:
        _pack_head(arena, where.slabs["embed"], embed, threads)
    weights.release()


def split_pairs(rows: int, arch: Architecture) -> npt.NDArray[np.intp]:
    """Which row of the file each row of queries or keys is that turns as (i, i + half), not as (2i, 2i + 1)."""
    turning = np.arange(arch.rope_dim).reshape(-1, 2).T.reshape(-1)
    head = np.concatenate([turning, np.arange(arch.rope_dim, arch.head_dim)])
    return np.asarray(np.arange(rows // arch.head_dim)[:, None] * arch.head_dim + head).reshape(-1)


def _split_pairs(arena: Arena, slab: Slab, row: int, rows: int, arch: Architecture) -> None:
    """Reorder packed rows of queries or keys from pairs (2i, 2i + 1) to pairs (i, i + half).

    The file then gives the same bits as the folder that it was converted from.
    """
    cols, order = padded(slab.cols, COLUMN_ALIGN), split_pairs(rows, arch)
    panels = slice(row // PANEL, (row + padded(rows, PANEL)) // PANEL)
    planes = [arena.bytes[slab.data : slab.data + slab.rows * cols // 4].view(np.uint32)]
    if slab.group:  # with one scale, all rows of a tensor have it
        scales = arena.bytes[slab.scales : slab.scales + slab.rows * cols // slab.group * 2]
        planes.append(scales.view(np.uint16))
    for plane in planes:
        part = plane.reshape(slab.rows // PANEL, -1, PANEL)[panels]
        lines = part.transpose(0, 2, 1).reshape(-1, part.shape[1])
        lines[:rows] = lines[order]
        part[:] = lines.reshape(len(part), PANEL, -1).transpose(0, 2, 1)


def _check_input_norms(where: Layout, layer: int, file: str) -> None:
    """Of products that are computed together, either each has a norm of its own, or none has."""
    for names in (("q", "k", "v"), ("gate", "up")):
        missing = [name for name in names if f"{layer}.in.{name}" not in where.slabs]
        if missing and len(missing) < len(names):
            tensor = layout.INPUT_NORMS[missing[0]]
            raise BadArtifact(
                f"{file}: tensor blk.{layer}.{tensor}.weight is missing, and its neighbours are there",
                hint="the file is not a complete model",
            )


def _put_vector(arena: Arena, slab: Slab, weights: Weights, role: str, size: int) -> None:
    values = weights.vector(role, size)
    if values is None:
        raise BadArtifact(f"{weights.where}: tensor {role} is missing", hint="the file is not a complete model")
    arena.vector(slab)[:] = values


def rope_tables(weights: Weights, n_ctx: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Rotations of layers that see everything, and of sliding-window layers where the family has them.

    float32 (n_ctx, pairs, 2): cosine, sine.
    """
    arch = weights.architecture
    factors = weights.vector("rope_freqs.weight", arch.rope_dim // 2)
    if factors is not None and not (factors > 0).all():
        at = int((~(factors > 0)).argmax())
        raise BadArtifact(f"{weights.where}: rope_freqs.weight[{at}] is {factors[at]}, a positive number is needed")
    table = np.stack(rope.tables(n_ctx, arch.rope_dim, arch.rope_theta, arch.rope_scaling, factors), axis=-1)
    if not arch.window:
        return table, None
    return table, np.stack(rope.tables(n_ctx, arch.rope_dim, GEMMA_LOCAL_THETA, RopeScaling()), axis=-1)


def _pack_ternary(matrix: native.Matrix, row: int, raw: Raw, where: str, threads: int) -> None:
    data, source, scale = raw.data, raw.type.lower(), raw.scale
    if raw.type in REAL_TYPES:
        data, scale = _ternarize(raw, where)
        scale *= raw.scale
        source = "codes"
    elif GROUPS[raw.type]:
        _check_scales(raw, where)
        block_scale = _one_scale(raw) if matrix.group == 0 else 1.0
        scale = raw.scale * (block_scale or 0.0)
        if matrix.group and raw.scale != 1.0:
            raise UnsupportedArtifact(f"{where}: tensor {raw.name} has scales for {matrix.group} columns and one more")
    data = np.ascontiguousarray(data)
    bad = native.library().bn_pack_ternary(
        native.SOURCES.index(source), data.ctypes.data, raw.rows, raw.cols, matrix, row, scale, threads
    )
    if bad < 0:
        raise BackendUnavailable("out of memory or threads while packing weights")
    if bad:
        raise BadArtifact(
            f"{where}: tensor {raw.name} at byte {raw.offset}: weight {bad - 1} has code 3, which means nothing",
            hint="the file is damaged, or another layout: fetch it again",
        )


def _check_scales(raw: Raw, where: str) -> None:
    """Block scales are numbers, and those of ternary types are not negative."""
    size, at = SCALES[raw.type]
    scales = raw.data.reshape(-1, size)[:, at : at + 2].copy().view(np.float16)[:, 0]
    least = 0 if raw.type in TERNARY_TYPES else -np.inf  # of Q4_0 and Q6_K they may be
    wrong = ~(np.isfinite(scales) & (scales >= least))
    if wrong.any():
        block = int(wrong.argmax())
        raise BadArtifact(
            f"{where}: tensor {raw.name}, block {block} at byte {raw.offset + block * size} has scale {scales[block]}",
            hint="the file is damaged: fetch it again",
        )


def _check_head(raw: Raw, where: str) -> None:
    """Raises: BadArtifact: a head or an embedding holds a value that is not finite."""
    if raw.type not in REAL_TYPES:
        _check_scales(raw, where)
        return
    width = raw.data.size // raw.rows
    for row in range(0, raw.rows, ROWS_AT_ONCE):
        values = reals(raw.type, raw.data[row * width : (row + ROWS_AT_ONCE) * width])
        if not np.isfinite(values).all():
            at = row * raw.cols + int((~np.isfinite(values)).argmax())
            raise BadArtifact(
                f"{where}: tensor {raw.name} at byte {raw.offset}: weight {at} is {values[at - row * raw.cols]}",
                hint="the file is damaged: fetch it again",
            )


def _ternarize(raw: Raw, where: str) -> tuple[npt.NDArray[np.uint8], float]:
    """Codes and scale of master weights: exact where they are ternary already, else quantized as in training."""
    name = f"{where}: tensor {raw.name} at byte {raw.offset}"
    ternary = master.decode(raw.data, raw.rows, raw.cols, dtype=raw.type, trained=True, where=name)
    scale = float(ternary.one_scale(name, target="one scale a tensor"))
    if not 0 < scale < float("inf"):
        raise BadArtifact(f"{name} has scale {scale}")
    return ternary.codes, scale


def _pack_head(arena: Arena, slab: Slab, raw: Raw, threads: int) -> None:
    matrix, lib = arena.matrix(slab), native.library()
    if HEAD_KINDS[raw.type] == (slab.kind, slab.group):
        data = np.ascontiguousarray(raw.data)
        if lib.bn_pack_blocks(data.ctypes.data, raw.rows, raw.cols, matrix, threads):
            raise BackendUnavailable("out of memory or threads while packing the head")
        return
    if raw.type not in REAL_TYPES:
        raise UnsupportedArtifact(f"tensor {raw.name} is {raw.type}; only {', '.join(REAL_TYPES)} is requantized")
    width = raw.data.size // raw.rows
    for first in range(0, raw.rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, raw.rows - first)
        rows = reals(raw.type, raw.data[first * width : (first + count) * width])
        if lib.bn_pack_real(rows.ctypes.data, count, matrix, first):
            raise BackendUnavailable("out of memory while packing the head")
