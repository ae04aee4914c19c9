"""How much memory a loaded model takes, term by term, from its shape and its settings.

Formulas: research notes on selection, B3 to B5; verified there against llama.cpp's own log, and here against
`tests/estimate/kv_vectors.json` to the byte. Assumes what the GGUF backend sets: `swa_full=False`, one unified cache
for all slots, flash attention. A backend that knows better says so in `Backend.footprint`.
"""

from __future__ import annotations

from edgellm.machine import Machine
from edgellm.model import Shape
from edgellm.plan import Footprint
from edgellm.units import MIB

KV_TYPES = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}  # bytes per elements
CELL_PAD = 256  # cache cells come in multiples of this
UBATCH = 512  # tokens llama.cpp computes at once

# Resident set of a worker beyond weights and cache: 75-85 MiB measured with llama-cpp-python (B5). The parent that
# serves HTTP is ours and adds about 50 MiB.
WORKER_BYTES = 85 * MIB
PARENT_BYTES = 50 * MIB
# A 514 MiB compute buffer grew the resident set by 21 MiB over a 600-token prompt (B4): the rest is never touched.
COMPUTE_TOUCHED_BYTES = 24 * MIB
COMPUTE_MARGIN_BYTES = 6 * MIB  # graph inputs and views beyond the largest tensor: 2-6 MiB measured (B4)


def _padded(cells: int) -> int:
    return -(-cells // CELL_PAD) * CELL_PAD


def kv_bytes(shape: Shape, ctx: int, slots: int = 1, kv_type: str = "f16") -> int:
    """Bytes of the cache for `slots` sequences of `ctx` tokens, recurrent state included.

    Sliding-window layers keep the window of every slot and one batch, padded (B3). Recurrent state is F32 and does not
    grow with the context.

    Raises:
        KeyError: unknown cache type.
    """
    cells = _padded(ctx * slots)
    local = _padded(min(cells, shape.sliding_window * slots + UBATCH)) if shape.sliding_window else cells
    f16 = shape.kv_full_bytes * cells + shape.kv_swa_bytes * local
    num, den = KV_TYPES[kv_type]
    return f16 * num // (2 * den) + shape.recurrent_bytes * slots


def kv_read_bytes(shape: Shape, depth: int, kv_type: str = "f16") -> int:
    """Cache bytes that one token reads when `depth` tokens of its slot are cached."""
    local = min(depth, shape.sliding_window) if shape.sliding_window else depth
    num, den = KV_TYPES[kv_type]
    return (shape.kv_full_bytes * depth + shape.kv_swa_bytes * local) * num // (2 * den) + shape.recurrent_bytes


def compute_bytes(shape: Shape, ctx: int, n_outputs: int = UBATCH) -> int:
    """Scratch of one batch, F32: the largest of logits and feed-forward activations, as buffers are reused (B4)."""
    n_tok = min(ctx, UBATCH)
    logits = shape.n_vocab * min(n_tok, n_outputs) * 4
    feed_forward = n_tok * (2 * max(shape.n_ff, shape.n_ff_expert * shape.n_expert_used) + 3 * shape.n_embd) * 4
    return max(logits, feed_forward) + COMPUTE_MARGIN_BYTES


def output_bytes(shape: Shape, slots: int) -> int:
    """Host buffer for the logits and embeddings that are handed out: one row per slot."""
    return (shape.n_vocab + shape.n_embd) * slots * 4


def footprint(shape: Shape, tensor_bytes: int, ctx: int, slots: int = 1, kv_type: str = "f16") -> Footprint:
    """Bytes that a model takes with `slots` sequences of `ctx` tokens each.

    Weights are counted once: pages of the file whose tensors were repacked can be reclaimed, and are.
    """
    compute = compute_bytes(shape, ctx)
    output = output_bytes(shape, slots)
    return Footprint(
        weights_bytes=tensor_bytes,
        kv_bytes=kv_bytes(shape, ctx, slots, kv_type),
        compute_bytes=compute,
        process_bytes=WORKER_BYTES,
        compute_resident_bytes=min(compute, COMPUTE_TOUCHED_BYTES),
        output_bytes=output,
        parent_bytes=PARENT_BYTES,
    )


def counted_bytes(footprint: Footprint, machine: Machine) -> int:
    """What counts against the machine's budget: Windows charges every reservation, others charge what is touched."""
    return footprint.allocated_bytes if machine.os == "windows" else footprint.needed_bytes
