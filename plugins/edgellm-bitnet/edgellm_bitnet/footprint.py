"""Bytes that a ternary model takes, by formula: the same layout, cache and scratch that the engine allocates."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm.contract.engine import SPARE_LOGITS
from edgellm.formats.gguf.header import GgufTensor
from edgellm.types.plan import Footprint, Settings
from edgellm_bitnet.architecture import Architecture
from edgellm_bitnet.layout import GROUPS, HEAD_KINDS, REAL_TYPES, Layout, fused, layout
from edgellm_bitnet.matrix import CACHE_ALIGN, CHUNK, COLUMN_ALIGN, HEAD_ALIGN, PANEL, SUB_COLUMNS, padded
from edgellm_bitnet.options import Options

BATCH = 256  # tokens computed together: their activations stay in the last-level cache
# Python, numpy, tokenizers and this library in a worker, measured on Linux x86-64 with a vocabulary of 2,048 tokens; a
# tokenizer takes about 400 bytes a token more.
PROCESS_BYTES = 58 << 20
TOKEN_BYTES = 400


def footprint(arch: Architecture, tensors: Mapping[str, GgufTensor], settings: Settings, options: Options) -> Footprint:
    """Of a GGUF file's header.

    Weights count with block scales where their type has them. A model that was trained ternary has one scale a tensor
    and needs up to 3 % less.
    """
    where = expected_layout(arch, tensors, options)
    slots = settings.n_slots + bool(arch.pooling)
    context = padded(settings.n_ctx, CACHE_ALIGN)
    rotations = context * arch.rope_dim * 4 * (2 if arch.window else 1)
    logits = (settings.n_slots + SPARE_LOGITS) * padded(arch.vocab, PANEL) * 4
    threads = max(settings.n_threads, settings.n_threads_batch)
    scratch = scratch_bytes(arch, BATCH, threads, context)
    return Footprint(
        weights_bytes=where.n_bytes,
        kv_bytes=cache_bytes(arch, options.cache or settings.kv_type, slots, context),
        compute_bytes=scratch + rotations + logits,
        process_bytes=PROCESS_BYTES + TOKEN_BYTES * arch.vocab,
        compute_resident_bytes=scratch + rotations + settings.n_slots * padded(arch.vocab, PANEL) * 4,
        exact=True,
    )


def expected_layout(arch: Architecture, tensors: Mapping[str, GgufTensor], options: Options) -> Layout:
    """The layout by types alone, without looking at the weights."""

    def type_of(role: str) -> str:
        return tensors[role].type.name if role in tensors else ""

    groups = {
        f"{layer}.{key}": GROUPS.get(type_of(f"blk.{layer}.{parts[0][0]}.weight"), 0)
        for layer in range(arch.layers)
        for key, parts in fused(arch).items()
    }
    tied = "output.weight" not in tensors
    embed = type_of("token_embd.weight")
    head = options.head_kind() or HEAD_KINDS.get(embed if tied else type_of("output.weight"), HEAD_KINDS["F16"])
    beside = None if tied or embed in REAL_TYPES else HEAD_KINDS.get(embed)
    return layout(arch, tensors.__contains__, groups, head, beside)


def cache_bytes(arch: Architecture, kv_type: str, slots: int, context: int) -> int:
    """bn_cache_bytes: keys and values of every layer, slot and KV head; with int8, a float scale for each."""
    dim = padded(arch.head_dim, HEAD_ALIGN)
    cell = {"f16": dim * 4, "q8_0": dim * 2 + 8, "f32": dim * 8}[kv_type]
    return context * cell * arch.layers * slots * arch.kv_heads


def scratch_bytes(arch: Architecture, batch: int, threads: int, context: int) -> int:
    """bn_scratch_bytes: activations of a batch, and partial results of attention."""
    columns = padded(max(arch.hidden, arch.ffn, arch.q_cols), COLUMN_ALIGN)
    q, kv = padded(arch.q_cols, PANEL), padded(arch.kv_cols, PANEL)
    wide = padded(max(q + 2 * kv, 2 * padded(arch.ffn, PANEL), arch.hidden, arch.q_cols), COLUMN_ALIGN)
    dim, units = padded(arch.head_dim, HEAD_ALIGN), 4 * threads * (context // CHUNK + 1)
    inputs = [padded(cols, COLUMN_ALIGN) for cols in (*[arch.hidden] * 5, arch.q_cols, arch.ffn)]
    acts = [
        size
        for cols in inputs
        for size in (
            batch * cols, batch * cols // COLUMN_ALIGN * 4, *[batch * cols // SUB_COLUMNS * 4] * 2, batch * 4
        )
    ]  # fmt: skip
    rest = [
        batch * arch.hidden * 4, batch * arch.hidden * 4, batch * wide * 4, batch * padded(arch.hidden, PANEL) * 4,
        batch * arch.q_cols * 4, threads * 2 * columns * 4, units * 4 * (dim + 2) * 4, batch * columns // PANEL * 4,
        *[threads * padded(batch, 32) * 4] * 3, threads * padded(batch, 32) * 8,
        batch * (arch.heads // arch.kv_heads) * 12,
    ]  # fmt: skip
    return sum(padded(size, 128) for size in [*acts, *rest])
