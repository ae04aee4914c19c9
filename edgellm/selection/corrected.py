"""Predictions of speed and memory, corrected by what earlier runs here made of such predictions."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from msgspec import structs

from edgellm.history.corrections import Correction
from edgellm.selection.placement import Placement
from edgellm.types.basis import Corrected
from edgellm.types.plan import Footprint, Rate


def corrected(rate: Rate, factor: float, correction: Correction) -> Rate:
    """A predicted rate, corrected by earlier runs.

    Where the file itself ran here, the interval is as narrow as runs repeat. Otherwise it stays that of predictions.
    """
    if factor == 1.0 and correction.within is None:
        return rate
    within = correction.within
    ends = (rate.low, rate.high) if within is None else (rate.tok_s * (1 - within), rate.tok_s * (1 + within))
    tok_s, low, high = (float(f"{value * factor:.3g}") for value in (rate.tok_s, *ends))
    assert correction.basis is not None
    assert not isinstance(rate.basis, Corrected)
    return Rate(tok_s, low, high, Corrected(factor, correction.basis, rate.basis))


def corrected_on_gpus(rate: Rate, name: Literal["decode", "prefill"], placed: Placement, of_place: Correction) -> Rate:
    """The same for a placement on GPUs. With other layers there than ran, it is as uncertain as predictions are."""
    if of_place.basis is None:
        return rate
    if of_place.held != (placed.gpu_layers, placed.experts_away):
        of_place = replace(of_place, within=None)
    return corrected(rate, getattr(of_place, name), of_place)


def with_resident(predicted: Footprint, factor: float) -> Footprint:
    """A footprint with `factor` times the resident bytes. The difference counts as the worker process's own."""
    if factor == 1.0:
        return predicted
    more = round(predicted.resident_bytes * (factor - 1))
    return structs.replace(predicted, process_bytes=max(0, predicted.process_bytes + more))
