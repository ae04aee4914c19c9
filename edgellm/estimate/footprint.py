"""How much memory a loaded model takes, term by term, from its shape and its settings.

Formulas for llama.cpp b11434 as the GGUF backend sets it up: a cache stream for each slot, `swa_full=False`, flash
attention, `n_ubatch = n_batch`. The cache agrees with `tests/estimate/kv_vectors.json` to the byte; compute buffers
agree with what the library reserves for four shapes at up to 32k tokens to 1 MiB (docs/selection.md). Sources: research
notes on selection, B3 to B5, and `benchmarks/memory.py`. A backend that knows better says so in `Backend.footprint`.
"""

from __future__ import annotations

from functools import lru_cache

from edgellm.contract.engine import SPARE_LOGITS
from edgellm.estimate import architecture
from edgellm.types.machine import Machine
from edgellm.types.model import Shape
from edgellm.types.plan import Footprint
from edgellm.units import MIB

KV_TYPES = {"f32": (4, 1), "f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}  # bytes per elements
CELL_PAD = 256  # cache cells come in multiples of this
UBATCH = 512  # tokens computed at once

# A worker with Python, numpy and libllama, beside all other terms: 27 MiB of its own and 26 of files when it is loaded,
# 2 more once it has answered. Measured with four models; the tokenizer comes on top.
WORKER_BYTES = 55 * MIB
# The process that serves HTTP, 50 MiB measured after seven answers, and that of its chat template, 16 beside the files
# that both have. A program that uses `EdgeLLM` itself takes 38 instead of 50.
PARENT_BYTES = 64 * MIB
# What llama.cpp keeps of a tokenizer, for each token: 152 to 165 bytes measured for SentencePiece, 307 to 424 for BPE,
# whose merges are kept too (11 vocabularies of 32k to 262k tokens).
PIECE_BYTES = 160
MERGE_BYTES = 140  # for each merge
BPE_BYTES = 340  # a token with its merges, where their number is not known
SENTENCE_PIECE = frozenset({"gemma", "gemma2", "gemma3", "gemma3n", "gemma-embedding"})
SENTENCE_PIECE_VOCAB = 32064  # llama 2 and Phi 3: smaller vocabularies than any BPE's of a model in use

# What llguidance keeps of a vocabulary: 17 MiB measured for 49,152 tokens, 27 for 128,256, 35 for 151,936, 65 for
# 262,144. None took more than this line; with longer tokens they take more.
GRAMMAR_BYTES = 6 * MIB
GRAMMAR_TOKEN_BYTES = 236

COMPUTE_TOUCHED_BYTES = 24 * MIB  # where only embeddings are computed on the CPU
COMPUTE_MARGIN_BYTES = MIB  # graph inputs and views beyond the largest tensors: 0.01 to 0.9 MiB measured


def padded(cells: int) -> int:
    """As many cells as are reserved for so many."""
    return -(-cells // CELL_PAD) * CELL_PAD


def local_cells(shape: Shape, ctx: int, batch: int) -> int:
    """Cells of a sliding-window layer for one slot: the window and one batch, padded (B3)."""
    cells = padded(ctx)
    return padded(min(cells, shape.sliding_window + batch)) if shape.sliding_window else cells


def kv_bytes(shape: Shape, ctx: int, slots: int = 1, kv_type: str = "f16", batch: int = UBATCH) -> int:
    """Bytes of the cache for `slots` sequences of `ctx` tokens, recurrent state included.

    Each slot has a stream of its own. Recurrent state is F32 and does not grow with the context.

    Raises:
        KeyError: unknown cache type.
    """
    f16 = shape.kv_full_bytes * padded(ctx) + shape.kv_swa_bytes * local_cells(shape, ctx, batch)
    num, den = KV_TYPES[kv_type]
    return (f16 * num // (2 * den) + shape.recurrent_bytes) * slots


def kv_read_bytes(shape: Shape, depth: int, kv_type: str = "f16") -> int:
    """Cache bytes that one token reads when `depth` tokens of its slot are cached."""
    local = min(depth, shape.sliding_window) if shape.sliding_window else depth
    num, den = KV_TYPES[kv_type]
    return (shape.kv_full_bytes * depth + shape.kv_swa_bytes * local) * num // (2 * den) + shape.recurrent_bytes


def compute_bytes(
    shape: Shape, ctx: int, slots: int = 1, *, batch: int = UBATCH, flash_attention: bool = True
) -> tuple[int, int]:
    """Scratch of one batch: (reserved, touched).

    Buffers are reused, so the larger of two moments counts: a layer, with the masks that live through all of them, and
    the logits. Logits are reserved for `slots + SPARE_LOGITS` rows and touched for one a slot.
    """
    n_tok, cells = min(ctx, batch), padded(ctx)
    dense = 3 * max(shape.n_ff, architecture.delta_width(shape))
    experts = shape.n_expert_used * (3 * shape.n_ff_expert + shape.n_embd)
    layer = n_tok * 4 * (max(dense, experts) + 4 * shape.n_embd)
    masked = cells + (local_cells(shape, ctx, batch) if shape.sliding_window else 0)
    if flash_attention:
        layer += n_tok * masked * 2
    else:
        layer += n_tok * (masked + shape.n_head * cells) * 4
    row, embeddings = shape.n_vocab * 4, n_tok * shape.n_embd * 4
    rows = min(n_tok, slots + SPARE_LOGITS)
    reserved = max(layer, rows * row + embeddings) + COMPUTE_MARGIN_BYTES
    return reserved, max(layer, slots * row + embeddings) + COMPUTE_MARGIN_BYTES


def output_bytes(shape: Shape, slots: int) -> int:
    """Host buffer for the logits that are handed out: one row per slot."""
    return shape.n_vocab * slots * 4


def tokenizer_bytes(shape: Shape, merges: int | None = None) -> int:
    """What llama.cpp keeps of the model's tokenizer. `merges` of a BPE tokenizer; None = not known, 0 = it has none."""
    if merges is not None:
        return PIECE_BYTES * shape.n_vocab + MERGE_BYTES * merges
    pieces = shape.arch in SENTENCE_PIECE or shape.n_vocab <= SENTENCE_PIECE_VOCAB
    return (PIECE_BYTES if pieces else BPE_BYTES) * shape.n_vocab


def grammar_bytes(shape: Shape) -> int:
    """The tables that answers under a grammar need, by the size of the vocabulary; 0 where none are written."""
    writes = shape.kv_full_bytes or shape.kv_swa_bytes or shape.recurrent_bytes
    return GRAMMAR_BYTES + GRAMMAR_TOKEN_BYTES * shape.n_vocab if writes else 0


def footprint(
    shape: Shape,
    tensor_bytes: int,
    ctx: int,
    slots: int = 1,
    kv_type: str = "f16",
    *,
    batch: int = UBATCH,
    flash_attention: bool = True,
    repacked_bytes: int = 0,
    table_bytes: int = 0,
    mmap: bool = True,
    adapter_bytes: int = 0,
    merges: int | None = None,
) -> Footprint:
    """Bytes that a model takes with `slots` sequences of `ctx` tokens each.

    Args:
        batch: tokens computed at once.
        repacked_bytes: of `tensor_bytes`, what this build copies into another layout on this processor while loading.
        table_bytes: of `repacked_bytes`, an embedding table that is the output table too: the original is read on.
        mmap: the file is mapped, and its pages of repacked tensors stay until the system wants them back; otherwise
            each tensor is read to where it is needed.
        merges: of the tokenizer, where they are known.
    """
    cache, reserved, touched, process, grammar = _beside_weights(
        shape, ctx, slots, kv_type, batch, flash_attention, merges
    )
    unread = repacked_bytes - table_bytes
    return Footprint(
        weights_bytes=tensor_bytes if mmap else tensor_bytes - unread,
        kv_bytes=cache,
        compute_bytes=reserved,
        process_bytes=process,
        compute_resident_bytes=touched,
        repack_bytes=repacked_bytes,
        output_bytes=output_bytes(shape, slots),
        adapter_bytes=adapter_bytes,
        parent_bytes=PARENT_BYTES,
        grammar_bytes=grammar,
        reclaimable_bytes=unread if mmap else 0,
    )


@lru_cache(maxsize=4096)
def _beside_weights(  # noqa: PLR0917
    shape: Shape, ctx: int, slots: int, kv_type: str, batch: int, flash_attention: bool, merges: int | None
) -> tuple[int, int, int, int, int]:
    """Cache, scratch reserved and touched, process and grammar: the same for all files of a model."""
    reserved, touched = compute_bytes(shape, ctx, slots, batch=batch, flash_attention=flash_attention)
    process = WORKER_BYTES + tokenizer_bytes(shape, merges)
    return kv_bytes(shape, ctx, slots, kv_type, batch), reserved, touched, process, grammar_bytes(shape)


def counted_bytes(footprint: Footprint, machine: Machine) -> int:
    """What counts against the machine's budget: Windows charges every reservation, others charge what must stay."""
    return footprint.allocated_bytes if machine.os == "windows" else footprint.needed_bytes
