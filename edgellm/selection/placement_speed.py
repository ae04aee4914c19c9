"""How fast a placement is: on the processor, on GPUs, or on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

from edgellm.estimate import gpu_speed, split_speed
from edgellm.estimate.footprint import UBATCH
from edgellm.estimate.speed import banded
from edgellm.estimate.split_speed import GpuPart
from edgellm.estimate.weights import Weights
from edgellm.selection.placement import DevicePart, Placement
from edgellm.selection.provider_speed import STREAM_BAND, by_provider, link_gb_s
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.basis import PredictedSplit, PredictedStream
from edgellm.types.calibration import Calibration
from edgellm.types.machine import Machine
from edgellm.types.model import Shape
from edgellm.types.plan import Rate
from edgellm.types.priors import Priors

PROMPT, ANSWER = 512, 256  # tokens of the request by which placements are compared
# A GPU is taken where it is so much faster than the processor: setting it up is work, and it may fail.
CAUTION = 1.1
# Predictions of these were off by factors of two and more on devices that took no part in the fit (ADR 057), so the low
# end of the band counts. Of the others the middle does, as of processors.
_UNSURE = frozenset({"intel", "qualcomm", "arm", "broadcom", "unknown"})


@dataclass(frozen=True, slots=True)
class Runner:
    """Who computes: the processor and its threads, and what it is known to reach."""

    machine: Machine
    threads: int
    rates: Calibration | None
    priors: Priors
    kv_type: str = "f16"  # of the part of the cache that it reads


class PlacedRates(Struct, frozen=True):
    """Decode and prompts of one placement."""

    decode: Rate
    prefill: Rate
    on_gpu: bool
    is_sure: bool = True  # of GPUs whose speed is predicted as well as a processor's

    @property
    def seconds(self) -> float:
        """Of the usual request, cautiously."""
        return PROMPT / self.cautious(self.prefill) + ANSWER / self.cautious(self.decode)

    def cautious(self, rate: Rate) -> float:
        """What the ranking goes by."""
        return cautious(rate, self.is_sure) if self.on_gpu else rate.tok_s


def cautious(rate: Rate, sure: bool) -> float:
    """What the ranking counts on of a rate on GPUs. `sure`: as `PlacedRates.is_sure`."""
    return (rate.tok_s if sure else rate.low) / CAUTION


def is_sure(placement: Placement) -> bool:
    return all(_is_sure(part.device) for part in placement.parts)


def _is_sure(device: UsableGpu) -> bool:
    gpu = device.gpu
    known = gpu is not None and gpu.vendor not in _UNSURE and gpu.known in ("device", "variant")
    return known and device.provider is None


def decode(placement: Placement, runner: Runner, shape: Shape, weights: Weights, depth: int) -> Rate | None:
    """None where it is not known how fast one of the devices is."""
    if placement.is_whole and len(placement.parts) == 1:
        device = placement.parts[0].device
        if device.gpu is None or device.api is None:
            return None
        rate = gpu_speed.decode(device.gpu, device.api, shape, weights, depth=depth)
        return rate if rate is None else by_provider(rate, device, placement.copied_bytes)
    parts = _gpu_parts(placement)
    if parts is None:
        return None
    time = split_speed.decode(
        parts, runner.machine, shape, weights, runner.threads, depth=depth, kv_type=runner.kv_type, rates=runner.rates,
        own=runner.priors.rates,
    )  # fmt: skip
    if time is None:
        return None
    names = tuple(part.gpu.name for part in parts)
    basis = PredictedSplit(
        names, tuple(round(1000 * s, 2) for s in time.gpus), round(1000 * time.cpu, 2), runner.threads, depth
    )
    return banded(1 / time.seconds, (time.seconds / time.most, time.seconds / time.least), basis)


def prefill(placement: Placement, shape: Shape, weights: Weights, tokens: int | None = None) -> Rate | None:
    """Of a prompt of so many tokens; None = as long as a batch. No rate where it is too short to be read on GPUs."""
    parts = _gpu_parts(placement)
    if parts is None:
        return None
    tokens = tokens or max(UBATCH, placement.ubatch)
    rates = [
        gpu_speed.prefill(part.gpu, part.api, shape, weights, tokens=tokens, ubatch=placement.ubatch) for part in parts
    ]
    told = [rate for rate in rates if rate is not None]
    if len(told) < len(rates):
        return None
    shares = [part.share.blocks or 1e-6 for part in parts]  # one may have the output table only
    seconds = sum(share / sum(shares) / rate.tok_s for share, rate in zip(shares, told, strict=True))
    first = told[0]
    band = (first.low / first.tok_s, first.high / first.tok_s)
    if not placement.host_weight_bytes or placement.parts[0].device.provider is not None:
        rate = banded(1 / seconds, band, first.basis)
        return by_provider(
            rate, placement.parts[0].device, placement.copied_bytes, prompt=min(tokens, placement.ubatch)
        )
    # llama.cpp copies within one memory, too.
    shared = placement.is_unified
    link = min(link_gb_s(part.gpu, shared=shared) for part in parts)
    host_bytes = round(placement.host_weight_bytes * _touched(shape, tokens))
    streamed = split_speed.prefill(1 / seconds, host_bytes, link, tokens=tokens, ubatch=placement.ubatch)
    if streamed is None:
        return None
    low, basis = min(band[0], STREAM_BAND[0]), PredictedStream(parts[0].gpu.name, host_bytes, link, placement.ubatch)
    return banded(streamed, (low, STREAM_BAND[1]), basis)


def _touched(shape: Shape, tokens: int) -> float:
    """Of the experts, only those that some token is sent to are copied."""
    return min(1.0, tokens * shape.n_expert_used / shape.n_expert) if shape.n_expert else 1.0


def _gpu_parts(placement: Placement) -> Sequence[GpuPart] | None:
    parts = [_gpu_part(placement, part) for part in placement.parts]
    predicted = [part for part in parts if part is not None]
    return predicted if predicted and len(predicted) == len(parts) else None


def _gpu_part(placement: Placement, part: DevicePart) -> GpuPart | None:
    device = part.device
    if device.gpu is None or device.api is None:
        return None
    return GpuPart(device.gpu, device.api, placement.share(part))
