"""Bands of a class of predictions: factors of the middle between which nine tenths of measurements lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from gpu_priors import AS_ROWS, BANDS
from support.published_gpu import Row, by_device

FEW_ROWS = 6
# Quantiles that 95 % lie below: Student's t with 1 to 4 degrees of freedom, and the normal distribution.
T95, NORMAL95 = (6.314, 2.920, 2.353, 2.132), 1.645
INSIDE = 0.9  # of measurements on devices that neither fit nor band saw


def band(kind: str, name: str, off: np.ndarray, stretch: float) -> tuple[float, float]:
    """Ends that leave as many of a class's errors below as above, and a few as its first band has them; `stretch`ed."""
    low, high = BANDS[kind][name.removesuffix("/experts")]
    first = np.linspace(math.log(low), math.log(high * (1.2 if name.endswith("experts") else 1)), AS_ROWS)
    ends = np.quantile(np.concatenate([off, first]), [(1 - INSIDE) / 2, (1 + INSIDE) / 2])
    return short(math.exp(stretch * ends[0])), short(math.exp(stretch * ends[1]))


class ClassBand(msgspec.Struct, frozen=True):
    """Of one class: its ends, and what bands held and were that are made without the row's device."""

    ends: tuple[float, float]
    devices: int
    inside: tuple[bool, ...]
    widths: tuple[float, ...]


def class_band(kind: str, name: str, these: Sequence[Row], off: np.ndarray) -> ClassBand:
    """With the least stretch at which bands made without a row's device hold as many rows as they should, and with it.

    Rows of one device are off alike, so that a new device needs more room than its own would. A handful of rows says
    nothing of shares: theirs are stretched by what Student's t asks for so few devices (`few_devices`).
    """
    devices = by_device(these)
    few = few_devices(len(devices)) if len(off) < FEW_ROWS else None
    for stretch in np.arange(0.5, 3.01, 0.02).round(2).tolist():
        low, high = band(kind, name, off, stretch)
        ends = {
            device: band(kind, name, off[[p for p, row in enumerate(these) if row.gpu.name != device]], stretch)
            for device in devices
        }
        inside = tuple(
            ends[row.gpu.name][0] <= math.exp(far) <= ends[row.gpu.name][1] for row, far in zip(these, off, strict=True)
        )
        own = sum(low <= math.exp(far) <= high for far in off)
        if stretch >= few if few is not None else min(sum(inside), own) >= round(INSIDE * len(off)):
            break
    widths = tuple(ends[row.gpu.name][1] / ends[row.gpu.name][0] for row in these)
    return ClassBand((low, high), len(devices), inside, widths)


def few_devices(n: int) -> float:
    """How much wider a new device's band is where the spread is estimated of `n` devices, than where it is known.

    Student's t with one degree of freedom less than devices over the normal quantile, and the root of 1 + 1 / devices,
    as the middle is estimated, too. The research notes' band counts as one device more; where there is no other, it
    stays as it is.
    """
    return T95[n - 1] / NORMAL95 * math.sqrt(1 + 1 / (n + 1)) if n else 1.0


def short(number: float) -> float:
    return float(f"{number:.3g}")
