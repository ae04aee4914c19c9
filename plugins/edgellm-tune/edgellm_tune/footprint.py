"""What tuning takes, in bytes and in operations, by formula: without torch, from the header of the file alone.

What is counted is what decoder.py, linear.py and loss.py keep and allocate: float32 values for each token, layer by
layer, and matrices as they are unpacked. Counted are anonymous bytes and pages of the model, not those of libraries.
Constants were measured with torch 2.13.0 for x86-64 and glibc (docs/benchmarks/log/tuning.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgellm.formats.gguf.decoder import Decoder, read_decoder
from edgellm.formats.gguf.reader import GgufModel, GgufTensor
from edgellm.types.machine import Machine
from edgellm.types.tuning import TuneFootprint, TuneSettings, TuneSize

FLOAT = 4
LOGITS_BYTES = 64 * 1024**2  # most logits that loss.py has at once
PART_BYTES = 16 * 1024**2  # values of a table that base.py unpacks at once
# Measured: the interpreter with torch, the core and the header of a file take 187 MiB, and glibc keeps some.
PROCESS_BYTES = 222 * 1024**2
_FRAGMENTED = 1.06  # measured: what activations of all layers take, by what they are
# Values come from blocks through codes of a byte each, and what becomes of those; from these types at once.
_UNPACKING = 1.5
_AT_ONCE = frozenset({"F32", "F16", "BF16", "Q8_0"})
# 1e9 operations per second and thread: measured on a Zen 4 with AVX-512; the others by the width of their vectors.
_RATES = {"avx512f": 57.0, "avx2": 28.0, "neon": 14.0}


def footprint(model: GgufModel, settings: TuneSettings, size: TuneSize) -> TuneFootprint:
    """At the highest moment, with `settings.batch` of the longest rows.

    Logits and a layer's gradient are not there together, but glibc keeps what is freed within a step: they add up.
    """
    config = read_decoder(model)
    n_tokens = settings.batch * min(size.longest, settings.length)
    n_supervised = min(settings.batch * size.most_supervised, n_tokens)
    is_full = settings.method == "full"
    in_blocks = settings.quantized and not is_full
    trained, frozen = n_trained(config, settings)
    kept, working = _activations(config, settings, n_tokens)
    gradients = FLOAT * trained
    packed = {tensor.name: tensor for tensor in model.tensors if tensor.type.name != "F32"} if in_blocks else {}
    unpacked = [_unpacked(tensor) for name, tensor in packed.items() if name.startswith("blk.")]
    head = packed.get("token_embd.weight" if config.tied else "output.weight")
    logits = _logits(config, n_supervised) + (_part(head) if head else 0)
    return TuneFootprint(
        weights_bytes=model.tensor_bytes if in_blocks else FLOAT * n_weights(config),
        unpacked_bytes=max(unpacked, default=0),
        trained_bytes=FLOAT * (frozen if is_full else trained + frozen),
        # Of factors they grow where logits and activations were, from the last layer to the first.
        gradient_bytes=gradients if is_full else max(0, gradients - kept - logits),
        optimizer_bytes=2 * FLOAT * trained,
        activation_bytes=kept + working,
        logits_bytes=logits,
        data_bytes=size.n_tokens * 13,
        process_bytes=PROCESS_BYTES,
    )


def rate(model: GgufModel, settings: TuneSettings, machine: Machine) -> float:
    """Tokens per second, where half of them are supervised."""
    config = read_decoder(model)
    weights = sum(math.prod(shape) for shape in matrices(config)) * config.n_layer
    passes = 2 + settings.checkpointing + (settings.method == "full")
    operations = 2.0 * weights * passes + 6.0 * n_trained(config, settings)[0] + 2.0 * config.vocab * config.hidden
    per_thread = next((gflops for isa, gflops in _RATES.items() if isa in machine.cpu.isa), 4.0)
    return settings.n_threads * per_thread * 1e9 / operations


def matrices(config: Decoder) -> Iterator[tuple[int, int]]:
    """(rows, columns) of each matrix of a layer."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    yield from ((q, config.hidden), (kv, config.hidden), (kv, config.hidden), (config.hidden, q))
    yield from ((config.ffn, config.hidden), (config.ffn, config.hidden), (config.hidden, config.ffn))


def n_weights(config: Decoder) -> int:
    tables = 1 if config.tied else 2
    return config.n_layer * sum(math.prod(shape) for shape in matrices(config)) + tables * config.vocab * config.hidden


def n_trained(config: Decoder, settings: TuneSettings) -> tuple[int, int]:
    """(values that are trained, values beside them that are drawn or kept)."""
    shapes, layers, rank = list(matrices(config)), config.n_layer, settings.rank
    a, b = (layers * rank * sum(shape[side] for shape in shapes) for side in (1, 0))
    outs = layers * sum(rows for rows, _ in shapes)
    match settings.method:
        case "full":
            return n_weights(config), 0
        case "vera":
            widest = max(config.hidden, config.ffn, config.heads * config.head_dim)
            return layers * len(shapes) * rank + outs, 2 * rank * widest
        case "lora-fa":
            return b, a
        case "dora":
            return a + b + outs, outs
        case "delta-lora":
            return a + b, a + b
    return a + b, 0


def _activations(config: Decoder, settings: TuneSettings, n_tokens: int) -> tuple[int, int]:
    """(bytes kept until the gradient comes by, bytes of the moment where it is computed)."""
    d, q, kv, ffn = config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim, config.ffn
    layer = 2 * d + 2 * q + 2 * kv + 2 * ffn + config.heads
    layer += q + kv if config.qk_norm else 0
    layer += 2 * d if config.post_norms else 0
    layer += 7 * settings.rank if settings.method != "full" else 0
    layer += q + 2 * kv + 2 * d + 2 * ffn if settings.method == "dora" else 0  # before rows are scaled
    # Backward through the gate: both gradients, what was multiplied, once more with its own steps, and the result's.
    working = (7 if settings.method == "dora" else 5) * ffn + 2 * d
    if settings.checkpointing:
        return FLOAT * n_tokens * d * config.n_layer, FLOAT * n_tokens * (layer + working)
    return int(FLOAT * n_tokens * layer * config.n_layer * _FRAGMENTED), FLOAT * n_tokens * working


def _unpacked(tensor: GgufTensor) -> int:
    """Bytes of its values, and of what they come through."""
    return int(FLOAT * math.prod(tensor.dims) * (1 if tensor.type.name in _AT_ONCE else _UNPACKING))


def _part(table: GgufTensor) -> int:
    """The same of the rows that are unpacked together."""
    return int(_unpacked(table) * min(1.0, PART_BYTES / (FLOAT * math.prod(table.dims))))


def _logits(config: Decoder, n_supervised: int) -> int:
    """Logits of one part, which become their gradient; hidden values and their gradients."""
    at_once = min(n_supervised, max(1, LOGITS_BYTES // (FLOAT * config.vocab)))
    return FLOAT * at_once * config.vocab + FLOAT * config.hidden * (4 * at_once + 3 * n_supervised)
