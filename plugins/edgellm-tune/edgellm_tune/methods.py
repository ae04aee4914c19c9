"""First values of what each method trains, drawn from the seed: the same on every machine with the same torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgellm.formats.gguf.decoder import Decoder
from edgellm.types.tuning import TuneSettings
from edgellm_tune.adapters import Adapter, Decomposed, LowRank, Vector, Whole
from edgellm_tune.base import CPU, Matrix

_VERA_D = 0.1  # of the paper


class Draw:
    """Makes the adapter of one matrix after another, in the order of the file's layers."""

    def __init__(self, settings: TuneSettings, config: Decoder, dtype: torch.dtype, device: torch.device = CPU) -> None:
        self.settings, self.dtype, self.device = settings, dtype, device
        # The processor's on every device, so that all of them begin with the same values.
        self._random = torch.Generator().manual_seed(settings.seed)
        self.shared: dict[str, Tensor] = {}
        if settings.method == "vera":
            widest = max(config.hidden, config.ffn, config.heads * config.head_dim)
            own = torch.Generator().manual_seed(settings.vera_seed)
            self.shared = {
                "vera_a": self._uniform(settings.rank, widest, own),
                "vera_b": self._uniform(widest, settings.rank, own),
            }

    def __call__(self, matrix: Matrix) -> Adapter:
        settings = self.settings
        match settings.method:
            case "full":
                # Not what the file is mapped to.
                matrix.held = matrix.values().clone().requires_grad_()
                return Whole(matrix.held)
            case "vera":
                d = torch.full((settings.rank,), _VERA_D, dtype=self.dtype, device=self.device).requires_grad_()
                b = torch.zeros(matrix.rows, dtype=self.dtype, device=self.device).requires_grad_()
                return Vector(d, b, self.shared["vera_a"][:, : matrix.columns], self.shared["vera_b"][: matrix.rows])
        a = self._uniform(settings.rank, matrix.columns, self._random).requires_grad_(settings.method != "lora-fa")
        b = torch.zeros(matrix.rows, settings.rank, dtype=self.dtype, device=self.device).requires_grad_()
        if settings.method == "dora":
            squares = matrix.values().square().sum(1)
            return Decomposed(a, b, squares.sqrt().requires_grad_(), scale(settings), squares)
        delta = settings.delta_scale if settings.method == "delta-lora" else 0.0
        return LowRank(a, b, scale(settings), settings.method == "lora-fa", delta)

    def _uniform(self, rows: int, columns: int, random: torch.Generator) -> Tensor:
        """Kaiming's for a slope of sqrt(5), as peft draws: uniform within 1 / sqrt(columns)."""
        bound = 1 / math.sqrt(columns)
        values = torch.rand(rows, columns, generator=random).mul_(2).sub_(1).mul_(bound)
        return values.to(self.dtype).to(self.device)


def scale(settings: TuneSettings) -> float:
    """What B A x is multiplied with."""
    return settings.alpha / (math.sqrt(settings.rank) if settings.method == "rslora" else settings.rank)
