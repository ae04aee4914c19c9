"""Tokens per second, from a roofline: the slower of reading the weights and unpacking them, plus barriers.

    t_mem  = bytes read per token / bandwidth        a theoretical bandwidth is reached to 65 %, a measured one as it is
    t_comp = sum over types: weights / (threads * rate of that type on this processor)
    t_tok  = max(t_mem, t_comp) + 0.05 ms per layer

Source: research notes on selection, C1; in-sample median factor off 1.09 on 33 published rows (C2).
"""

from __future__ import annotations

from edgellm.backend import Calibration
from edgellm.estimate.footprint import kv_read_bytes
from edgellm.estimate.isa import isa_class
from edgellm.estimate.weights import Weights
from edgellm.machine import Machine
from edgellm.model import Shape
from edgellm.plan import Rate

THEORETICAL_REACHED = 0.65  # of the data sheet, on CPUs and integrated graphics: 0.53 to 0.72 (C1)
BARRIER_S = 0.05e-3  # per layer: threads meet several times in each (0.03 to 0.07 ms)
REFERENCE_DEPTH = 1024  # tokens in the cache that a stated rate assumes

# Low and high ends as factors of the middle: in-sample errors of C2, widened where an input is itself a guess.
_BAND_MEASURED = (0.75, 1.2)
_BAND_THEORETICAL = (0.6, 1.4)
_BAND_GUESSED = (0.35, 2.0)
# Sequential read of an ordinary machine of the kind, where a profile names none.
_GUESSED_GB_S = {"x86_64": 30.0, "amd64": 30.0, "aarch64": 12.0, "arm64": 12.0}


def _bandwidth(machine: Machine) -> tuple[float, str, tuple[float, float]]:
    """Bytes per second that decoding can count on, the basis in words, and the band."""
    memory = machine.memory
    if memory.bandwidth_gb_s is None:
        guess = _GUESSED_GB_S.get(machine.cpu.arch, 3.0)
        return guess * 1e9 * THEORETICAL_REACHED, f"bandwidth unknown, {guess:g} GB/s assumed", _BAND_GUESSED
    if memory.bandwidth_basis.startswith("measured"):
        return memory.bandwidth_gb_s * 1e9, f"{memory.bandwidth_gb_s:.1f} GB/s measured", _BAND_MEASURED
    reached = memory.bandwidth_gb_s * THEORETICAL_REACHED
    return reached * 1e9, f"{reached:.1f} of {memory.bandwidth_gb_s:.1f} GB/s theoretical", _BAND_THEORETICAL


def decode(
    machine: Machine,
    shape: Shape,
    weights: Weights,
    threads: int,
    *,
    depth: int = REFERENCE_DEPTH,
    kv_type: str = "f16",
    rates: Calibration | None = None,
) -> Rate:
    """Rate of one slot generating with `depth` tokens in its cache. `rates`: measured here; None = priors."""
    bandwidth, basis, band = _bandwidth(machine)
    cls = isa_class(machine.cpu, machine.os)
    measured = rates.decode if rates is not None else {}
    t_mem = (weights.streamed_bytes + kv_read_bytes(shape, depth, kv_type)) / bandwidth
    t_comp = sum(
        n / (measured.get((kind, threads), threads * cls.decode_gw_s(kind)) * 1e9)
        for kind, n in weights.streamed_params
    )
    bound = "memory" if t_mem >= t_comp else "arithmetic"
    rate = 1.0 / (max(t_mem, t_comp) + BARRIER_S * shape.n_layer)
    return _rate(rate, band, f"predicted: {bound}-bound, {basis}, {threads} threads, {cls.name}, {depth} tokens cached")


def prefill(
    machine: Machine, shape: Shape, weights: Weights, threads: int, *, rates: Calibration | None = None
) -> Rate:
    """Rate of reading a prompt in batches of 512; the output table is used once per batch and left out."""
    cls = isa_class(machine.cpu, machine.os)
    head = shape.n_embd * shape.n_vocab
    total = sum(n for _, n in weights.streamed_params) or 1
    body = max(0.05, 1 - head / total)
    measured = rates.prefill if rates is not None else {}
    t_comp = sum(
        n * body / (measured.get((kind, threads), threads * cls.prefill_gw_s(kind)) * 1e9)
        for kind, n in weights.streamed_params
    )
    rate = 1.0 / (t_comp + BARRIER_S * shape.n_layer / 512)
    return _rate(rate, _BAND_THEORETICAL, f"predicted: {threads} threads, {cls.name}")


def _rate(rate: float, band: tuple[float, float], basis: str) -> Rate:
    # Three significant digits: more would only show noise, and keep the answer from being the same twice.
    low, mid, high = (float(f"{rate * factor:.3g}") for factor in (band[0], 1.0, band[1]))
    return Rate(mid, low, high, basis)
