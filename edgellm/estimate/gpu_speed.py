"""Tokens per second on a GPU that holds all of a model, from its data sheet; see `gpu_terms` for the formula.

How far predictions are off with each device left out of the fit: `make bench-speed-gpu` and
docs/benchmarks/log/gpu-speed.md. No constant is of one device; what runs here teach comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgellm.estimate import gpu_terms
from edgellm.estimate.footprint import UBATCH
from edgellm.estimate.gpu_constants import GpuConstants, constants, shipped_cells
from edgellm.estimate.gpu_terms import Kind, TimeTerm
from edgellm.estimate.model_share import WHOLE, ModelShare
from edgellm.estimate.speed import REFERENCE_DEPTH, banded
from edgellm.estimate.weights import Weights
from edgellm.types.basis import PredictedOnGpu
from edgellm.types.gpu import Api, Gpu, Known
from edgellm.types.model import Shape
from edgellm.types.plan import Rate

MANY_LAUNCHES = 0.3  # of the time: where launches count that much, the host does, too, and nothing is known of it
FEW_DEVICES = 3  # whose constants a stranger may be further from
_APIS: dict[str, Api] = {
    "cuda": "cuda", "rocm": "rocm", "hip": "rocm", "metal": "metal", "mtl": "metal", "vulkan": "vulkan",
    "xe": "vulkan", "sycl": "sycl", "opencl": "opencl", "gpuopencl": "opencl",
}  # fmt: skip
_OLD = frozenset({"pascal", "pascal-p100", "maxwell"})
_MOBILE = frozenset({"qualcomm", "arm", "broadcom"})
# What not knowing the device adds to both ends: a guess between its variants, and between other ones of its family.
_WIDER: dict[Known, tuple[float, float]] = {
    "device": (1.0, 1.0), "variant": (0.95, 1.35), "family": (0.85, 1.2), "bandwidth": (0.65, 1.2),
    "nothing": (0.65, 1.2),
}  # fmt: skip
_UNTRIED_BY_NAME = 0.9  # of the newest architecture's speed, where only vendor and bandwidth are known


def api_of(device: str) -> Api | None:
    """The library behind a device as backends name it ("CUDA0", "Vulkan1", "MTL0"), or as a machine's kind of GPU."""
    name = device.lower().rstrip("0123456789")
    return _APIS.get(name)


def decode(
    gpu: Gpu,
    api: Api,
    shape: Shape,
    weights: Weights,
    *,
    depth: int = REFERENCE_DEPTH,
    kv_type: str = "f16",
    known: GpuConstants | None = None,
) -> Rate | None:
    """Rate of one slot generating with `depth` tokens in its cache; None where `api` on such a GPU is not known.

    Args:
        known: constants; None = those that ship.
    """
    from_fit = known or constants()
    cell = from_fit.decode_cell(gpu, api) if known else shipped_cells(gpu.group, api)[0]
    if cell is None:
        return None
    terms = gpu_terms.decode(gpu, api, cell, shape, weights, depth=depth, kv_type=kv_type)
    return _rate(terms, from_fit, gpu=gpu, api=api, shape=shape, depth=depth)


def prefill(
    gpu: Gpu,
    api: Api,
    shape: Shape,
    weights: Weights,
    *,
    tokens: int = UBATCH,
    ubatch: int = UBATCH,
    depth: int = 0,
    known: GpuConstants | None = None,
) -> Rate | None:
    """Rate of reading a prompt of `tokens` after `depth` cached ones, `ubatch` at once."""
    from_fit = known or constants()
    cell = from_fit.prefill_cell(gpu, api) if known else shipped_cells(gpu.group, api)[1]
    if cell is None:
        return None
    terms = gpu_terms.prefill(gpu, api, cell, shape, weights, tokens=tokens, ubatch=ubatch, depth=depth)
    return _rate(terms, from_fit, gpu=gpu, api=api, shape=shape, devices=from_fit.prefill_cells[cell].devices)


def decode_seconds(
    gpu: Gpu, api: Api, shape: Shape, weights: Weights, *, depth: int, kv_type: str = "f16", share: ModelShare = WHOLE
) -> float | None:
    """Seconds that one token takes on this device for its part of the model."""
    cell, _ = shipped_cells(gpu.group, api)
    if cell is None:
        return None
    terms = gpu_terms.decode(gpu, api, cell, shape, weights, depth=depth, kv_type=kv_type, share=share)
    return sum(seconds(term, constants().values) for term in terms)


def seconds(term: TimeTerm, values: Mapping[str, float]) -> float:
    """The time of one summand."""
    time = term.amount
    for name in term.times:
        time *= values[name]
    for name in term.over:
        time /= values[name]
    return time


def by_kind(terms: Sequence[TimeTerm], values: Mapping[str, float]) -> dict[Kind, float]:
    """Seconds of memory, arithmetic and launches."""
    kinds: dict[Kind, float] = {}
    for term in terms:
        kinds[term.kind] = kinds.get(term.kind, 0.0) + seconds(term, values)
    return kinds


def band_of(gpu: Gpu, shape: Shape) -> tuple[float, float]:
    """Ends of a decode rate as factors of it, where launches do not count much."""
    low, high = constants().decode_bands[band_class(gpu, shape, 0.0)]
    return _widened(gpu, low, high)


def prompt_class(gpu: Gpu, api: Api, shape: Shape, launches: float, devices: int) -> str:
    """As `band_class`, of prompts: kernels for matrices differ by library, and `devices` made the constants."""
    name = band_class(gpu, shape, launches)
    if name in ("mobile", "unknown", "intel", "small"):
        return name
    family, _, routed = name.partition("/")
    if gpu.vendor == "nvidia" and gpu.unified:
        family = "nvidia-shared"
    if api == "vulkan":
        family = f"{family}-vulkan"
    elif gpu.vendor in ("nvidia", "apple") and devices < FEW_DEVICES:  # other vendors' bands are those of few anyway
        family = f"{gpu.vendor}-few"
    return f"{family}/{routed}" if routed else family


def band_class(gpu: Gpu, shape: Shape, launches: float) -> str:
    """Predictions of decode that are off alike. `launches`: their share of the time."""
    if gpu.vendor in _MOBILE:
        return "mobile"
    if gpu.vendor in ("intel", "unknown"):
        return gpu.vendor
    if launches > MANY_LAUNCHES and not shape.n_expert:
        return "small"
    name = "nvidia-old" if gpu.group in _OLD else f"{gpu.vendor}-shared" if _is_apu(gpu) else gpu.vendor
    return f"{name}/experts" if shape.n_expert else name


def _is_apu(gpu: Gpu) -> bool:
    return gpu.vendor == "amd" and gpu.unified


def _widened(gpu: Gpu, low: float, high: float) -> tuple[float, float]:
    less, more = _WIDER[gpu.known]
    if gpu.bandwidth_range is not None:
        less = less * gpu.bandwidth_range[0] / gpu.bandwidth_gb_s
        more = more * gpu.bandwidth_range[1] / gpu.bandwidth_gb_s
    return low * less, high * more


def _rate(
    terms: Sequence[TimeTerm],
    from_fit: GpuConstants,
    *,
    gpu: Gpu,
    api: Api,
    shape: Shape,
    depth: int | None = None,
    devices: int = 0,
) -> Rate:
    kinds = by_kind(terms, from_fit.values)
    total = sum(kinds.values())
    bound = max(kinds, key=lambda kind: kinds[kind])
    launches = kinds["launches"] / total
    if depth is None:
        ends = from_fit.prefill_bands[prompt_class(gpu, api, shape, launches, devices)]
    else:
        ends = from_fit.decode_bands[band_class(gpu, shape, launches)]
    low, high = _widened(gpu, *ends)
    middle = (_UNTRIED_BY_NAME if gpu.known == "bandwidth" else 1.0) / total
    basis = PredictedOnGpu(gpu.name, gpu.known, api, bound, gpu.bandwidth_gb_s, depth)
    return banded(middle, (low, high), basis)
