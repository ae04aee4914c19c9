"""What a GPU does for one token, as terms of a sum: amounts of its own numbers, times constants that many GPUs share.

    seconds of a term = amount x the constants in `times` / the constants in `over`

Decode (research notes on GPUs, section 1):

    bytes of weights / (reached x bandwidth) + bytes of the cache / (cache x bandwidth)
    + weights of each type x flops of the type / FP32 rate + 2 flops for each product of attention / FP32 rate
    + layers x (launches + those of routed experts)

Prefill, per token of a prompt that is computed in batches:

    2 flops a weight x what its type and routing add / (reached x sustained matrix rate) + the same for attention
    + the same for columns of tiles that each expert's few tokens leave empty
    + 8 flops for each number of the state that layers without attention carry on / FP32 rate
    + (bytes of all weights that a batch touches / 0.8 of the bandwidth + layers x launches) / tokens in a batch

Matrix units at full load clock as high as their power allows: of two cards of an architecture, the one with half the
watts for each flop/s of its sheet reaches less of it, about by the root (dynamic power grows with frequency times
voltage squared, and voltage with frequency: the exponent lies between 1/3 and 1).

The constants: gpu_constants.json, fitted by `make bench-speed-gpu`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from edgellm.estimate.footprint import UBATCH, kv_read_bytes
from edgellm.estimate.model_share import WHOLE, ModelShare, expert_params, streamed_by, table_params
from edgellm.estimate.speed import REFERENCE_DEPTH, products
from edgellm.estimate.weights import Weights
from edgellm.types.gpu import Api, Gpu
from edgellm.types.model import Shape

Kind = Literal["memory", "arithmetic", "launches"]
MOST_POWER = 1.5  # of the usual watts for each flop/s: no published card has more to gain by them
BATCH_READS = 0.8  # of the bandwidth: all weights are read once for a batch, in order
# CUDA graphs, which save launches, need compute capability 7.0 (ggml-cuda.cu).
_WITHOUT_GRAPHS = ("pascal", "maxwell")
# Gated delta nets are computed in chunks of tokens, state-space models token by token.
_CHUNKED = frozenset({"qwen35", "qwen35moe", "qwen3next", "kimi-linear"})
_BY_TYPE = {
    "Q4_K": "k45", "Q5_K": "k45", "Q6_K": "q6", "Q2_K": "q23", "Q3_K": "q23", "MXFP4": "mxfp4",
    "F16": "float", "BF16": "float", "F32": "float",
}  # fmt: skip


class TimeTerm(Struct, frozen=True):
    """One summand of a time."""

    kind: Kind
    amount: float  # seconds, where every constant is 1
    times: tuple[str, ...] = ()
    over: tuple[str, ...] = ()


def type_class(kind: str) -> str:
    """Types that take about the same to unpack."""
    return _BY_TYPE.get(kind) or ("iq" if kind.startswith("IQ") else "plain")


def decode(
    gpu: Gpu,
    api: Api,
    cell: str,
    shape: Shape,
    weights: Weights,
    *,
    depth: int = REFERENCE_DEPTH,
    kv_type: str = "f16",
    share: ModelShare = WHOLE,
) -> tuple[TimeTerm, ...]:
    """Terms of one token with `depth` tokens cached. `cell`: whose share of the bandwidth counts."""
    own, bandwidth = streamed_by(share, shape, weights), gpu.bandwidth_gb_s * 1e9
    fp32, layers = gpu.fp32_tflops * 1e12, shape.n_layer * share.blocks
    launches = f"{api}-old" if api == "cuda" and gpu.group.startswith(_WITHOUT_GRAPHS) else api
    routed = share.experts if shape.n_expert else 0.0
    return (
        TimeTerm("memory", own.streamed_bytes / bandwidth, over=(f"reached/{cell}",)),
        TimeTerm(
            "memory", kv_read_bytes(shape, depth, kv_type) * share.blocks / bandwidth, over=(f"cache/{launches}",)
        ),
        *(
            TimeTerm("arithmetic", n / fp32, times=(f"flops/{_unpacking(kind, api, gpu, routed)}",))
            for kind, n in own.streamed_params
        ),
        TimeTerm("arithmetic", 2 * products(shape, depth) * share.blocks / fp32),
        TimeTerm("launches", layers * 1e-6, times=(f"layer_us/{launches}",)),
        TimeTerm("launches", layers * routed * 1e-6, times=(f"experts_us/{launches}",)),
    )


def _unpacking(kind: str, api: Api, gpu: Gpu, routed: float) -> str:
    """Kernels of Vulkan are several times slower for some types; see the rows of those in the published data."""
    types = type_class(kind)
    if api == "vulkan" and types == "q23" and gpu.vendor == "amd":
        return "q23-vulkan-amd"
    return "bf16-vulkan-experts" if api == "vulkan" and kind == "BF16" and routed else types


def prefill(
    gpu: Gpu,
    api: Api,
    cell: str,
    shape: Shape,
    weights: Weights,
    *,
    tokens: int = UBATCH,
    ubatch: int = UBATCH,
    depth: int = 0,
    share: ModelShare = WHOLE,
) -> tuple[TimeTerm, ...]:
    """Terms of one token of a prompt of `tokens`, of which `ubatch` are computed at once, after `depth` cached ones."""
    side = _side(api, gpu)
    own, reached = streamed_by(share, shape, weights), (f"matrix/{cell}",)
    table_kind, table = table_params(shape, weights) if share.table else ("", 0)
    peak, batch = sustained(gpu), max(1, min(tokens, ubatch))
    routing = (f"routing/{_router(api, side)}",) if shape.n_expert and share.experts else ()
    # Of the experts, only those that some token of the batch is sent to are read.
    touched = min(1.0, batch * shape.n_expert_used / shape.n_expert) if shape.n_expert else 1.0
    stored = weights.total_bytes * own.streamed_bytes / weights.streamed_bytes if weights.streamed_bytes else 0
    return (
        *_of_kinds(shape, share, gpu, cell=cell, batch=batch, touched=touched),
        *(
            TimeTerm("arithmetic", 2 * _without(table if kind == table_kind else 0, n) / peak,
                 (*_mixed(kind, side), *routing), reached)
            for kind, n in own.streamed_params
        ),
        TimeTerm("arithmetic", 2 * products(shape, depth + tokens // 2) * share.blocks / peak,
             (f"attention/{side}",), reached),
        TimeTerm("memory", stored * touched / (BATCH_READS * gpu.bandwidth_gb_s * 1e9) / batch),
        TimeTerm("launches", shape.n_layer * share.blocks * 1e-6 / batch, ("batch_layer_us/all",)),
    )  # fmt: skip


def _of_kinds(
    shape: Shape, share: ModelShare, gpu: Gpu, *, cell: str, batch: int, touched: float
) -> Iterator[TimeTerm]:
    """What only models with routed experts, or with layers that carry a state, take. `touched`: share of experts."""
    if shape.n_expert:
        each = expert_params(shape) * share.experts * share.blocks / shape.n_expert_used
        tiled = 2 * each * shape.n_expert * touched / sustained(gpu) / batch
        yield TimeTerm("arithmetic", tiled, ("columns/all",), (f"matrix/{cell}",))
    if shape.recurrent_bytes:
        state = 2 * shape.recurrent_bytes * share.blocks / (gpu.fp32_tflops * 1e12)  # bytes of FP32: 8 flops each
        yield TimeTerm("arithmetic", state, (f"scan/{'chunks' if shape.arch in _CHUNKED else 'tokens'}",))


def sustained(gpu: Gpu) -> float:
    """Flop/s of the matrix units for which its power is enough, relative to its architecture."""
    return gpu.matrix_tflops * 1e12 * math.sqrt(min(gpu.power, MOST_POWER))


def _without(table: int, n: int) -> int:
    """The output table is used for the last token only."""
    return max(0, n - table)


def _side(api: Api, gpu: Gpu) -> str:
    """Whose kernels for matrices: they differ by vendor, and on AMD by library."""
    if gpu.vendor == "amd":
        return "amd-vulkan" if api == "vulkan" else "amd"
    return gpu.vendor if gpu.vendor in ("nvidia", "apple") else "other"


def _router(api: Api, side: str) -> str:
    """Who computes routed experts: with SYCL they take six times as much more as with others (two devices)."""
    return "sycl" if api == "sycl" else side


def _mixed(kind: str, side: str) -> tuple[str, ...]:
    """What a product takes more than one of plain blocks, which go through integer units."""
    types = type_class(kind)
    if types == "float":
        return (f"unpack-float/{side}",)
    if kind == "Q8_0":  # twice the bytes of four bits pass the units' own memory
        return (f"unpack-8/{side}",)
    return () if types in ("plain", "mxfp4") else (f"unpack-k/{side}",)


def names(terms: Sequence[TimeTerm]) -> set[str]:
    """Every constant that they need."""
    return {name for term in terms for name in (*term.times, *term.over)}
