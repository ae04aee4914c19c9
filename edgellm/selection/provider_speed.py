"""How fast a library is that computes whole models on a GPU, from what is published of it (`ProviderPrior`)."""

from __future__ import annotations

from edgellm.estimate.speed import banded
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.basis import PredictedByProvider, PredictedOnGpu
from edgellm.types.gpu import Gpu
from edgellm.types.plan import Rate

# Of the link where the data sheet names none: PCIe 4 with eight lanes, in part.
USUAL_LINK_GB_S = 12.0
# A card in a slow slot has a quarter to half of what its sheet says, and nothing here can see the slot.
STREAM_BAND = (0.4, 1.15)
# Of what llama.cpp is predicted, where nothing is published: a choice of ours, wide for that.
UNPUBLISHED = (0.2, 0.5, 1.2)


def link_gb_s(gpu: Gpu, *, shared: bool) -> float:
    """1e9 bytes per second from RAM to the GPU; within one memory, what is copied is read and written."""
    return gpu.bandwidth_gb_s / 2 if shared else gpu.link_gb_s or USUAL_LINK_GB_S


def by_provider(rate: Rate, device: UsableGpu, copied_bytes: int, *, prompt: int = 0) -> Rate:
    """The rate of the library on `device`, from llama.cpp's there; that one itself where llama.cpp computes.

    `t = t_llama / factor + copied_bytes / link`

    Args:
        copied_bytes: of the cache, in each step.
        prompt: tokens of a prompt that one step computes; 0 = the rate is of decoding.
    """
    prior = device.provider
    published = None if prior is None else prior.rate
    if prior is None or published is None or device.gpu is None or not isinstance(rate.basis, PredictedOnGpu):
        return rate
    factors = published.prefill if prompt else published.decode
    low, factor, high = factors or UNPUBLISHED
    link = link_gb_s(device.gpu, shared=device.unified)
    copying = copied_bytes / (link * 1e9) / (prompt or 1)
    seconds = 1 / (rate.tok_s * factor) + copying
    least = 1 / (rate.high * high) + copying / STREAM_BAND[1]
    most = 1 / (rate.low * low) + copying / STREAM_BAND[0]
    source, used_link = published.source if factors else "", link if copied_bytes else None
    basis = PredictedByProvider(prior.name, low, factor, high, source, rate.basis, copied_bytes, used_link)
    return banded(1 / seconds, (seconds / most, seconds / least), basis)
