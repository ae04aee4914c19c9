"""What predictions for a backend are made of, as a word: runs are compared with predictions of the same basis only."""

from __future__ import annotations

import hashlib
import json

from edgellm.backend import Backend, Calibration
from edgellm.version import __version__


def build(backend: Backend) -> str:
    """Names the build that runs: numbers of another one are not compared with."""
    return _word([backend.name, *sorted(backend.describe().items())])


def basis(backend: Backend, rates: Calibration | None) -> str:
    """Changes with the build, with a new calibration, and with the formulas (by EdgeLLM's version)."""
    measured = [] if rates is None else [rates.build, *sorted([*map(str, kv)] for kv in _rates(rates))]
    return ("calibrated-" if rates is not None else "prior-") + _word([__version__, build(backend), *measured])


def _rates(rates: Calibration) -> list[tuple[object, ...]]:
    return [
        (phase, *key, rate)
        for phase, table in (("decode", rates.decode), ("prefill", rates.prefill))
        for key, rate in table.items()
    ]


def _word(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
