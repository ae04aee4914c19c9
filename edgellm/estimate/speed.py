"""Tokens per second: measured rates of this machine's kernels where there are any, else priors of its kind of CPU.

Measured (`edgellm calibrate`):

    t_tok = sum over types: weights / rate of that type and number of threads, reading from memory included
          + products of attention / rate of the cache type
          + per layer: a constant, and a time per number that its small operations write

Priors, of memory and arithmetic that overlap in part or not at all:

    t_mem  = bytes read per token / bandwidth        a theoretical bandwidth is reached in part, a measured one as it is
    t_comp = sum over types: weights / (threads * rate of that type on this class of processor)
    t_tok  = (t_mem^p + t_comp^p)^(1/p) + barriers per layer

A roofline is the limit of a large p. It was compared with p = 1 on 48 published rates of 12 devices, with each device
left out of the fit: in the median a roofline is off by a factor of 1.24, and p = 1 by 1.12
(`tests/estimate/test_published.py`). Rates of types: `estimate/isa.py`, and `Backend.priors` of backends with their own
kernels. How far measured rates are off: docs/benchmarks/log/speed-prediction.md, and `make bench-speed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from edgellm.estimate import architecture
from edgellm.estimate import rates as measured_rates
from edgellm.estimate.footprint import kv_read_bytes
from edgellm.estimate.isa import isa_class
from edgellm.estimate.model_share import table_params
from edgellm.estimate.weights import Weights
from edgellm.types.basis import Bandwidth, Bound, Predicted, RateBasis
from edgellm.types.calibration import CALIBRATED_ROW, Calibration
from edgellm.types.machine import Machine
from edgellm.types.model import Shape
from edgellm.types.plan import Rate
from edgellm.types.priors import NO_PRIORS, KernelRate

# Fitted together on the published rates, each device counting alike.
THEORETICAL_REACHED = 0.8  # of the data sheet's bandwidth, on CPUs
BARRIER_S = 0.03e-3  # per layer: threads meet several times in each
# p above. A bandwidth that was measured is what few cores can draw, and they read ahead while they compute: 28 files on
# one core of an EPYC were met within 6 to 10 % (median) by 1.5 to 2, and within 26 % by a roofline.
OVERLAP_THEORETICAL, OVERLAP_MEASURED = 1.0, 1.5
REFERENCE_DEPTH = 1024  # tokens in the cache that a stated rate assumes
BATCH = 512  # tokens of a prompt that are computed at once
# Latent attention (DeepSeek's) caches one row of 512 + 64 numbers: all of it are keys, and 512 the values, too.
_LATENT = (576 + 512) / 576

# Low and high ends as factors of the middle: in-sample errors of C2, widened where an input is itself a guess.
_BANDS = {"measured": (0.75, 1.2), "theoretical": (0.6, 1.4), "assumed": (0.35, 2.0)}  # by what the bandwidth is
# Of a rate that rests on a calibration: what `make bench-speed` found (docs/benchmarks/log/speed-prediction.md).
# The scatter of the calibration's own rounds widens the lower end.
_BAND_CALIBRATED = (0.85, 1.15)
# Sequential read of an ordinary machine of the kind, where a profile names none.
_ASSUMED_GB_S = {"x86_64": 30.0, "amd64": 30.0, "aarch64": 12.0, "arm64": 12.0}


def decode(
    machine: Machine,
    shape: Shape,
    weights: Weights,
    threads: int,
    *,
    depth: int = REFERENCE_DEPTH,
    kv_type: str = "f16",
    rates: Calibration | None = None,
    own: Mapping[str, KernelRate] = NO_PRIORS.rates,
) -> Rate:
    """Rate of one slot generating with `depth` tokens in its cache.

    Args:
        rates: measured on this machine; None = priors.
        own: priors of a backend's own kernels; types without one count at ggml's.
    """
    cls = isa_class(machine.cpu, machine.os)
    if rates is not None and rates.decode:
        kernels = measured_rates.Reader(rates, cls, threads, own)
        t_tok = sum(n / kernels.decode(kind) for kind, n in weights.streamed_params)
        t_tok += extra_rows(shape, weights) * kernels.row_s(weights.streamed_params)
        t_tok += products(shape, depth) / kernels.attention(kv_type, shape.head_dim, shape.n_head_kv, _group(shape))
        t_tok += shape.recurrent_bytes / (_bandwidth(machine).reached_gb_s * 1e9)
        t_tok += shape.n_layer * (kernels.layer_s + kernels.element_s * activations(shape))
        return banded(1 / t_tok, _calibrated(rates), kernels.basis(depth))
    bandwidth = _bandwidth(machine)
    bytes_s = bandwidth.reached_gb_s * 1e9
    power = OVERLAP_MEASURED if bandwidth.source == "measured" else OVERLAP_THEORETICAL
    t_mem = (weights.streamed_bytes + kv_read_bytes(shape, depth, kv_type)) / bytes_s
    t_comp = sum(n / (threads * cls.decode_gw_s(kind, own) * 1e9) for kind, n in weights.streamed_params)
    bound: Bound = "memory" if t_mem >= t_comp else "arithmetic"
    rate = 1.0 / ((t_mem**power + t_comp**power) ** (1 / power) + BARRIER_S * shape.n_layer)
    return banded(rate, _BANDS[bandwidth.source], Predicted(threads, cls.name, bound, bandwidth, depth))


def prefill(
    machine: Machine,
    shape: Shape,
    weights: Weights,
    threads: int,
    *,
    tokens: int = BATCH,
    kv_type: str = "f16",
    rates: Calibration | None = None,
    own: Mapping[str, KernelRate] = NO_PRIORS.rates,
) -> Rate:
    """Rate of reading a prompt of `tokens` tokens into an empty cache, in batches of 512. The output table is used for
    the last token only."""
    cls = isa_class(machine.cpu, machine.os)
    head_type, head = table_params(shape, weights)
    body = [(kind, n - head if kind == head_type else n) for kind, n in weights.streamed_params]
    if rates is not None and rates.prefill:
        kernels = measured_rates.Reader(rates, cls, threads, own)
        t_tok = sum(n / kernels.prefill(kind) for kind, n in body)
        t_tok += (head / kernels.decode(head_type) if rates.decode else 0.0) / tokens
        t_tok += products(shape, tokens // 2) / kernels.attention_prefill(kv_type)
        t_tok += shape.n_layer * (kernels.layer_s / min(tokens, BATCH) + kernels.element_prefill_s * activations(shape))
        return banded(1 / t_tok, _calibrated(rates), kernels.basis())
    t_comp = sum(n / (threads * cls.prefill_gw_s(kind, own) * 1e9) for kind, n in body)
    rate = 1.0 / (t_comp + BARRIER_S * shape.n_layer / BATCH)
    return banded(rate, _BANDS["theoretical"], Predicted(threads, cls.name))


def products(shape: Shape, depth: int) -> float:
    """What attention multiplies for one token: each query head meets `depth` keys and as many values."""
    cached = kv_read_bytes(shape, depth) - shape.recurrent_bytes
    return cached / 2 * _group(shape) * (_LATENT if shape.arch == "deepseek2" and shape.n_head_kv == 1 else 1)


def _group(shape: Shape) -> float:
    """Query heads that read the same keys and values."""
    return shape.n_head / shape.n_head_kv if shape.n_head_kv else 1.0


def activations(shape: Shape) -> int:
    """Numbers that one layer's small operations (norms, rotations, activations, sums) write for one token."""
    ffn = shape.n_ff_expert * shape.n_expert_used if shape.n_expert else shape.n_ff
    return 6 * shape.n_embd + 3 * ffn + 3 * shape.head_dim * (shape.n_head + 2 * shape.n_head_kv)


def extra_rows(shape: Shape, weights: Weights) -> float:
    """How many more rows a token is multiplied with than if every row had the length that rates are measured with.

    Negative where rows are longer.
    """
    if not weights.streamed_params or not architecture.tensors(shape):
        return 0.0
    n_weights = sum(count for _, count in weights.streamed_params)
    return n_weights * _rows_per_weight(shape) - n_weights / CALIBRATED_ROW


@lru_cache(maxsize=1024)
def _rows_per_weight(shape: Shape) -> float:
    parts = architecture.tensors(shape) or ()
    matrices = [(part.row, part.elems * len(part.layers)) for part in parts if part.role != "never" and part.rows > 1]
    return sum(elems / row for row, elems in matrices) / sum(elems for _, elems in matrices)


def _bandwidth(machine: Machine) -> Bandwidth:
    """What decoding can count on: a measured bandwidth as it is, a part of a theoretical one."""
    memory = machine.memory
    if memory.bandwidth_gb_s is None:
        assumed = _ASSUMED_GB_S.get(machine.cpu.arch, 3.0)
        return Bandwidth("assumed", assumed, assumed * THEORETICAL_REACHED)
    if memory.bandwidth_source == "measured":
        return Bandwidth("measured", memory.bandwidth_gb_s, memory.bandwidth_gb_s, memory.bandwidth_contended)
    return Bandwidth("theoretical", memory.bandwidth_gb_s, memory.bandwidth_gb_s * THEORETICAL_REACHED)


def _calibrated(rates: Calibration) -> tuple[float, float]:
    low, high = _BAND_CALIBRATED
    return max(0.3, low - rates.scatter), high


def banded(rate: float, band: tuple[float, float], basis: RateBasis) -> Rate:
    """`rate` in tokens per second with its ends as factors of it."""
    # Three significant digits: more would only show noise, and keep the answer from being the same twice.
    low, high = rate * band[0], rate * band[1]
    return Rate(float(f"{rate:.3g}"), float(f"{low:.3g}"), float(f"{high:.3g}"), basis)
