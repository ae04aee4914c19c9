"""Tokens per second where several devices share a model: layers or routed experts on the processor, several GPUs.

A token passes them one after another, so times add up; nothing gets faster by a second GPU. Sources: research notes on
GPUs, section 2; `tests/estimate/test_split_speed.py` has the published rows that it was compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from msgspec import Struct

from edgellm.estimate import speed
from edgellm.estimate.footprint import UBATCH
from edgellm.estimate.gpu_speed import band_of, decode_seconds
from edgellm.estimate.model_share import ModelShare, streamed_by
from edgellm.estimate.weights import Weights, ranked
from edgellm.types.calibration import Calibration
from edgellm.types.gpu import Api, Gpu
from edgellm.types.machine import Machine
from edgellm.types.model import Shape
from edgellm.types.priors import NO_PRIORS, KernelRate

SWITCH_S = 40e-6  # from one device to the next and back: activations are copied, and both sides wait
OFFLOADED_BATCH = 32  # tokens from which weights in RAM are multiplied on the GPU (GGML_OP_OFFLOAD_MIN_BATCH)


class GpuPart(Struct, frozen=True):
    """What one GPU holds."""

    gpu: Gpu
    api: Api
    share: ModelShare


class SplitTime(Struct, frozen=True):
    """Seconds of one token, and between which times it is expected."""

    seconds: float
    least: float
    most: float
    gpus: tuple[float, ...]  # of each GPU
    cpu: float


def decode(
    parts: Sequence[GpuPart],
    machine: Machine,
    shape: Shape,
    weights: Weights,
    threads: int,
    *,
    depth: int = speed.REFERENCE_DEPTH,
    kv_type: str = "f16",
    rates: Calibration | None = None,
    own: Mapping[str, KernelRate] = NO_PRIORS.rates,
) -> SplitTime | None:
    """Time of one token of one slot; what no GPU holds, the processor computes. None: a GPU's speed is not known.

    Args:
        kv_type: of what the processor reads. Nobody measured a smaller cache on GPUs: none is taken to be faster.
        rates, own: of the processor, as for `speed.decode`.
    """
    left, blocks = _left(parts, shape, weights)
    seconds = least = most = 0.0
    gpus = []
    for part in parts:
        time = decode_seconds(part.gpu, part.api, shape, weights, depth=depth, share=part.share)
        if time is None:
            return None
        low, high = band_of(part.gpu, shape)
        gpus.append(time)
        seconds, least, most = seconds + time, least + time / high, most + time / low
    cpu = 0.0
    if left.streamed_params:
        rate = speed.decode(
            machine, _shape_of(shape, blocks, parts), left, threads, depth=depth, kv_type=kv_type, rates=rates, own=own
        )
        cpu = 1 / rate.tok_s
        seconds, least, most = seconds + cpu, least + 1 / rate.high, most + 1 / rate.low
    # Experts in RAM take a way there and back in each of their layers; whole layers take one.
    ways = sum(
        max(1, round(shape.n_layer * p.share.blocks * (1 - p.share.experts))) for p in parts if left.streamed_params
    )
    switches = 2 * (ways + len(parts) - 1) * SWITCH_S
    return SplitTime(seconds + switches, least + switches, most + switches, tuple(gpus), cpu)


def _left(parts: Sequence[GpuPart], shape: Shape, weights: Weights) -> tuple[Weights, float]:
    """What the processor reads for a token, and the share of blocks that are whole with it."""
    counts, read = dict(weights.streamed_params), weights.streamed_bytes
    for part in parts:
        held = streamed_by(part.share, shape, weights)
        read -= held.streamed_bytes
        for kind, n in held.streamed_params:
            counts[kind] = counts.get(kind, 0) - n
    # Shares are rounded to whole weights.
    rest = ranked({kind: n for kind, n in counts.items() if n > len(parts)})
    blocks = max(0.0, 1.0 - sum(part.share.blocks for part in parts))
    return replace(weights, streamed_bytes=max(0, read) if rest else 0, streamed_params=rest), blocks


def _shape_of(shape: Shape, blocks: float, parts: Sequence[GpuPart]) -> Shape:
    """The model as the processor sees it: the layers that it takes part in, and the cache of those that are whole."""
    touched = blocks + sum(part.share.blocks * (1 - part.share.experts) for part in parts)
    return replace(
        shape,
        n_layer=max(1, round(shape.n_layer * touched)),
        kv_full_bytes=round(shape.kv_full_bytes * blocks),
        kv_swa_bytes=round(shape.kv_swa_bytes * blocks),
        recurrent_bytes=round(shape.recurrent_bytes * blocks),
    )


def prefill(gpu_tok_s: float, host_bytes: int, link_gb_s: float, *, tokens: int, ubatch: int = UBATCH) -> float | None:
    """Rate of a prompt whose weights lie in RAM in part: they are copied to the GPU for each micro-batch.

    `t = host_bytes / link + n / gpu_tok_s`. None below `OFFLOADED_BATCH` tokens: then the processor multiplies.

    Args:
        gpu_tok_s: of the GPU if it held everything.
        host_bytes: of weights in RAM that a batch touches, without the input embedding.
        link_gb_s: 1e9 bytes per second from RAM to the GPU.
    """
    batch = min(tokens, ubatch)
    if batch < OFFLOADED_BATCH:
        return None
    return batch / (host_bytes / (link_gb_s * 1e9) + batch / gpu_tok_s)
