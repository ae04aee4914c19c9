"""What runs on this machine made of earlier predictions: factors for the next ones. Pure; `history.py` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Correction:
    """Measured over predicted, as a factor on the middle of a prediction; 1 = nothing is known."""

    decode: float = 1.0
    prefill: float = 1.0
    resident: float = 1.0  # of the bytes that are resident
    basis: str = ""  # for people: "corrected by 3 runs of qwen3-0.6b Q4_K_M here"; "" = not corrected


NONE = Correction()


@dataclass(frozen=True, slots=True)
class Corrections:
    """By (backend, model id, quantization)."""

    rows: Mapping[tuple[str, str, str], Correction] = field(default_factory=dict)

    def of(self, backend: str, model: str, quant: str) -> Correction:
        return self.rows.get((backend, model, quant), NONE)
