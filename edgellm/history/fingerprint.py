"""Fingerprints of what predictions are made of: a run is compared only with predictions that have the same one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields

from edgellm.contract import answers
from edgellm.contract.backend import Backend
from edgellm.types.calibration import Calibration
from edgellm.types.gpu_place import GpuPlace
from edgellm.version import __version__


def build(backend: Backend) -> str:
    """Identifies the build that runs: numbers of another build cannot be compared with its own."""
    return _word([backend.name, *sorted(answers.describe(backend).items())])


def basis(backend: Backend, rates: Calibration | None) -> str:
    """Changes with the build, with a new calibration, and with the formulas (by EdgeLLM's version)."""
    # Not with what the rates were measured beside: they are predicted from, or they are not.
    names = [field.name for field in fields(Calibration) if field.name != "occasions"]
    measured = [] if rates is None else [_plain(getattr(rates, name)) for name in names]
    return ("prior-" if rates is None else "calibrated-") + _word([__version__, build(backend), measured])


def name(backend: str, place: GpuPlace | None) -> str:
    """What a fingerprint is filed under: where GPUs compute everything, rates of the processor do not enter."""
    return f"{backend} on GPUs" if place is not None and place.split == "whole" else backend


def bases(backend: Backend, rates: Calibration | None) -> dict[str, str]:
    """By `name`, what predictions are made of now."""
    return {backend.name: basis(backend, rates), f"{backend.name} on GPUs": basis(backend, None)}


def _plain(value: object) -> object:
    return sorted(map(str, value.items())) if isinstance(value, dict) else value


def _word(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
