"""What tuning takes, in bytes and in operations, by formula: without torch, from the header of the file alone.

What is counted is what decoder.py, linear.py and loss.py keep and allocate: float32 values for each token, layer by
layer, and matrices as they are unpacked. Counted are anonymous bytes and pages of the model, not those of libraries.
Constants were measured with torch 2.13.0 for x86-64 and glibc (docs/benchmarks/log/tuning.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgellm.formats.gguf.decoder import Decoder, read_decoder
from edgellm.formats.gguf.reader import GgufModel
from edgellm.types.machine import Machine
from edgellm.types.tuning import TuneFootprint, TuneSettings, TuneSize

FLOAT = 4
LOGITS_BYTES = 64 * 1024**2  # most logits that loss.py has at once
PART_BYTES = 16 * 1024**2  # values of a table that base.py unpacks at once
PROCESS_BYTES = 187 * 1024**2  # measured: the interpreter with torch, the core and the header of a file
# Measured: of memory that is freed within a step, what glibc keeps (it gives back what is 32 MiB or more, and the rest
# when 64 MiB are free at the end of the heap).
_RETAINED = 0.55
# Blocks are unpacked through codes of a byte each, beside the values.
_UNPACKING = 1.5
# 1e9 operations per second and thread: measured with AVX-512 at 2.8 GHz; the others by the width of their vectors.
_RATES = {"avx512f": 57.0, "avx2": 28.0, "neon": 14.0}


def footprint(model: GgufModel, settings: TuneSettings, size: TuneSize) -> TuneFootprint:
    """At the highest moment, with `settings.batch` of the longest rows."""
    config = read_decoder(model)
    n_tokens = settings.batch * min(size.longest, settings.length)
    n_supervised = min(settings.batch * size.most_supervised, n_tokens)
    is_full = settings.method == "full"
    in_blocks = settings.quantized and not is_full
    trained, frozen = n_trained(config, settings)
    kept, working = _activations(config, settings, n_tokens)
    gradients = FLOAT * trained
    logits = _logits(config, n_supervised, in_blocks=in_blocks)
    packed = [tensor for tensor in model.tensors if tensor.type.name != "F32"] if in_blocks else []
    largest = max((math.prod(tensor.dims) for tensor in packed if tensor.name.startswith("blk.")), default=0)
    return TuneFootprint(
        weights_bytes=model.tensor_bytes if in_blocks else FLOAT * n_weights(config),
        unpacked_bytes=int(FLOAT * largest * _UNPACKING),
        trained_bytes=FLOAT * (frozen if is_full else trained + frozen),
        # Of factors they grow as activations shrink, from the last layer to the first.
        gradient_bytes=gradients if is_full else max(0, gradients - kept),
        optimizer_bytes=2 * FLOAT * trained,
        activation_bytes=kept + int((1 + _RETAINED) * working),
        logits_bytes=max(0, logits - working) + int(_RETAINED * logits),
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
    working = 5 * ffn + 2 * d
    if settings.checkpointing:
        return FLOAT * n_tokens * d * config.n_layer, FLOAT * n_tokens * (layer + working)
    return FLOAT * n_tokens * layer * config.n_layer, FLOAT * n_tokens * working


def _logits(config: Decoder, n_supervised: int, *, in_blocks: bool) -> int:
    """Logits of one part, which become their gradient; rows of the table; hidden values and their gradients."""
    at_once = min(n_supervised, max(1, LOGITS_BYTES // (FLOAT * config.vocab)))
    table = int(min(PART_BYTES, FLOAT * config.vocab * config.hidden) * _UNPACKING) if in_blocks else 0
    return FLOAT * at_once * config.vocab + table + FLOAT * config.hidden * (4 * at_once + 3 * n_supervised)
