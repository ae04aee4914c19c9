"""What tuning takes, in bytes and in operations, by formula: without torch, from the header of the file alone.

What is counted is what decoder.py, linear.py and loss.py keep and allocate: float32 values for each token, layer by
layer, and matrices as they are unpacked. Counted are anonymous bytes and pages of the model, not those of libraries.
Constants were measured with torch 2.13.0 for x86-64 and glibc (docs/benchmarks/log/tuning.md). On a GPU the same values
lie in its memory; what its allocator and its libraries take beside them is estimated (`on_device.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.formats.gguf.decoder import Decoder, read_decoder
from edgellm.formats.gguf.reader import GgufModel, GgufTensor, array_length
from edgellm.types.gpu import Gpu
from edgellm.types.machine import Machine
from edgellm.types.tune_device import CPU
from edgellm.types.tuning import TuneFootprint, TuneSettings, TuneSize
from edgellm_tune import on_device

FLOAT = 4
LOGITS_BYTES = 64 * 1024**2  # most logits that loss.py has at once
PART_BYTES = 16 * 1024**2  # values of a table that base.py unpacks at once
AT_ONCE_BYTES = 4 * 1024**2  # what base.py unpacks at once: 256 Ki values, at most 13 bytes each with their codes
PROCESS_BYTES = 162 * 1024**2  # measured, 155 to 161: the interpreter with torch, the core, buffers of products
THREAD_BYTES = 6 * 1024**2  # measured: of each but the first
FULL_BYTES = 16 * 1024**2  # measured, 13: of full tuning, beside its weights, gradients and moments
_HELD = 0.015  # measured, 0.006 to 0.018: of a base held as values, beside these
TOKEN_BYTES = 128  # measured: a token of the vocabulary as Python's text, for sample answers
# Measured: glibc keeps what was freed between blocks that are not, of activations so much; but not while there are
# logits, before which decoder.py gives it back.
_FRAGMENTED = 1.06
# 1e9 operations per second and thread: measured on a Zen 4 with AVX-512; the others by the width of their vectors.
_RATES = {"avx512f": 57.0, "avx2": 28.0, "neon": 14.0}


@dataclass(frozen=True, slots=True)
class _Moment:
    """Bytes that are there together beside weights, factors and their moments."""

    activations: float
    gradients: float = 0.0
    logits: float = 0.0
    unpacked: float = 0.0

    @property
    def total(self) -> float:
        return self.activations + self.gradients + self.logits + self.unpacked


def footprint(model: GgufModel, settings: TuneSettings, size: TuneSize) -> TuneFootprint:
    """At the highest moment, with `settings.batch` of the longest rows."""
    config = read_decoder(model)
    trained, frozen = n_trained(config, settings, _n_steps(settings, size))
    is_full = settings.method == "full"
    highest = max(_moments(model, config, settings, size), key=lambda moment: moment.total)
    process = (
        PROCESS_BYTES
        + THREAD_BYTES * (settings.n_threads - 1)
        + TOKEN_BYTES * array_length(model.header, "tokenizer.ggml.tokens")
    )
    process += FULL_BYTES * is_full
    if is_full or not settings.quantized:
        process += int(_HELD * FLOAT * n_weights(config))
    footprint = TuneFootprint(
        weights_bytes=_weights(model, config, settings),
        unpacked_bytes=int(highest.unpacked),
        trained_bytes=FLOAT * (frozen if is_full else trained + frozen),
        gradient_bytes=int(highest.gradients),
        optimizer_bytes=2 * FLOAT * trained,
        activation_bytes=int(highest.activations),
        logits_bytes=int(highest.logits),
        data_bytes=size.n_tokens * 13,
        process_bytes=process,
    )
    if settings.device == CPU:
        return footprint
    return on_device.placed(footprint, max(tensor.n_bytes for tensor in model.tensors))


def _moments(model: GgufModel, config: Decoder, settings: TuneSettings, size: TuneSize) -> Iterator[_Moment]:
    """Those of a step, one of which is the highest."""
    n_tokens = _of_batch(settings, size, size.n_tokens, min(size.longest, settings.length))
    n_supervised = min(n_tokens, _of_batch(settings, size, size.n_supervised, size.most_supervised))
    is_full, d, layers = settings.method == "full", config.hidden, config.n_layer
    packed = _packed(model, settings)
    unpacked = max((_unpacked(tensor) for name, tensor in packed.items() if name.startswith("blk.")), default=0.0)
    head = packed.get("token_embd.weight" if config.tied else "output.weight")

    gradients = FLOAT * n_trained(config, settings)[0]
    of_head = FLOAT * config.vocab * d if is_full else 0
    of_table = 0 if config.tied else of_head
    of_layer = (gradients - of_head - of_table) / layers

    token = FLOAT * n_tokens * _FRAGMENTED
    kept, working = (token * values for values in _layer(config, settings, min(size.longest, settings.length)))
    inputs = token * d if settings.checkpointing else kept
    again = kept if settings.checkpointing else 0
    state = token * (d + config.head_dim * len(set(config.local)))  # behind the last layer; and the rotations
    logits: float = _logits(config, n_supervised)
    if head:
        logits += min(PART_BYTES, FLOAT * math.prod(head.dims)) + AT_ONCE_BYTES
    # A table that only its rows are read of: Linux maps up to all of it with them, and it is let go then.
    table = packed.get("token_embd.weight")
    yield _Moment(token * d, unpacked=table.n_bytes if table and not config.tied else 0)
    yield _Moment((layers * inputs + state) / _FRAGMENTED, of_head, logits)
    for left in (layers, 1):  # from the last layer to the first; of the gradient
        done = of_head + (layers - left + 1) * of_layer
        # Holes that inputs of layers leave are too small for what is computed again, so they stay beside gradients.
        there = (layers if settings.checkpointing else left) * inputs
        yield _Moment(there + again + working + state + token * d, done, unpacked=unpacked)
    yield _Moment(0, gradients)


def _weights(model: GgufModel, config: Decoder, settings: TuneSettings) -> int:
    """Without a table that only rows are read of, which is let go then."""
    mapped = {name: tensor.n_bytes for name, tensor in _packed(model, settings, plain=True).items()}
    values = FLOAT * n_weights(config)
    if settings.method == "full":
        return values + sum(tensor.n_bytes for tensor in model.tensors if tensor.type.name == "F32")
    # On a GPU that table is a copy, which stays.
    stays = config.tied or settings.device != CPU
    in_pages = sum(n_bytes for name, n_bytes in mapped.items() if stays or name != "token_embd.weight")
    held = sum(FLOAT * math.prod(tensor.dims) for tensor in model.tensors if tensor.name not in mapped)
    return in_pages + held


def rate(model: GgufModel, settings: TuneSettings, machine: Machine) -> float:
    """Tokens per second, where half of them are supervised."""
    per_thread = next((gflops for isa, gflops in _RATES.items() if isa in machine.cpu.isa), 4.0)
    return settings.n_threads * per_thread * 1e9 / _operations(read_decoder(model), settings)


def rate_on(model: GgufModel, settings: TuneSettings, gpu: Gpu | None) -> float:
    """The same on a GPU."""
    config = read_decoder(model)
    weights = sum(math.prod(shape) for shape in matrices(config)) * config.n_layer
    return on_device.rate(_operations(config, settings), weights, config, settings, gpu)


def _operations(config: Decoder, settings: TuneSettings) -> float:
    """Of a token."""
    weights = sum(math.prod(shape) for shape in matrices(config)) * config.n_layer
    passes = 2 + settings.checkpointing + (settings.method == "full")
    return 2.0 * weights * passes + 6.0 * n_trained(config, settings)[0] + 2.0 * config.vocab * config.hidden


def matrices(config: Decoder) -> Iterator[tuple[int, int]]:
    """(rows, columns) of each matrix of a layer."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    yield from ((q, config.hidden), (kv, config.hidden), (kv, config.hidden), (config.hidden, q))
    yield from ((config.ffn, config.hidden), (config.ffn, config.hidden), (config.hidden, config.ffn))


def n_weights(config: Decoder) -> int:
    tables = 1 if config.tied else 2
    return config.n_layer * sum(math.prod(shape) for shape in matrices(config)) + tables * config.vocab * config.hidden


def n_trained(config: Decoder, settings: TuneSettings, n_steps: int = 0) -> tuple[int, int]:
    """(values that are trained, values beside them that are drawn, or kept within so many steps)."""
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
            return a + b, a + b if n_steps > settings.delta_start else 0
    return a + b, 0


def _of_batch(settings: TuneSettings, size: TuneSize, total: int, most: int) -> int:
    """Most of something in one batch. Rows come together at random: what they differ by from the mean adds up as
    squares do."""
    mean, rows = total / size.n_rows, min(settings.batch, size.n_rows)
    return math.ceil(rows * mean + math.sqrt(rows) * max(0.0, most - mean))


def _n_steps(settings: TuneSettings, size: TuneSize) -> int:
    return settings.max_steps or settings.epochs * math.ceil(size.n_rows / (settings.batch * settings.accumulate))


def _layer(config: Decoder, settings: TuneSettings, longest: int) -> tuple[int, int]:
    """Values for each token: (kept until the gradient comes by, there beside them while it is computed)."""
    d, q, kv, ffn = config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim, config.ffn
    kept = 2 * d + 2 * q + 2 * kv + 2 * ffn + config.heads
    kept += q + kv if config.qk_norm else 0
    kept += 2 * d if config.post_norms else 0
    kept += 7 * settings.rank if settings.method != "full" else 0
    kept += q + 2 * kv + 2 * d + 2 * ffn if settings.method == "dora" else 0  # before rows are scaled
    # Back through the gate: its two steps again, their product's gradient, and of each factor and of the gate another.
    # Back through attention: heads joined again, that gradient, and those of queries and of keys and values for each.
    of_attention = 6 * q + 2 * kv - 2 * ffn
    if settings.device != CPU:
        scores = on_device.scores(config, settings.device, longest)
        kept, of_attention = kept + scores, of_attention + 2 * scores
    return kept, max(6 * ffn, of_attention)


def _packed(model: GgufModel, settings: TuneSettings, *, plain: bool = False) -> dict[str, GgufTensor]:
    """Matrices that stay in the file's pages; with `plain`, also those that need no unpacking."""
    in_blocks = settings.quantized and settings.method != "full"
    return {
        tensor.name: tensor
        for tensor in model.tensors
        if len(tensor.dims) > 1 and (plain if tensor.type.name == "F32" else in_blocks)
    }


def _unpacked(tensor: GgufTensor) -> float:
    """Bytes of its values, and of what they come through."""
    return FLOAT * math.prod(tensor.dims) + AT_ONCE_BYTES


def _logits(config: Decoder, n_supervised: int) -> int:
    """Logits of one part, which become their gradient; hidden values and their gradients."""
    at_once = min(n_supervised, max(1, LOGITS_BYTES // (FLOAT * config.vocab)))
    return FLOAT * at_once * config.vocab + FLOAT * config.hidden * (4 * at_once + 3 * n_supervised)
