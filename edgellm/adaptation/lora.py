"""What was learned, in memory: factors for matrices of a model, with rows in the order of the model's GGUF file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.adapter import MOST_RANK

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """What is added to a matrix of (out, in) is their product `b @ a`, times the scale."""

    a: Floats  # (rank, in); of experts (experts, rank, in)
    b: Floats  # (out, rank); of experts (experts, out, rank)

    @property
    def rank(self) -> int:
        return int(self.a.shape[-2])


@dataclass(frozen=True, slots=True)
class Lora:
    """Factors by the names of the model's tensors, as "blk.0.attn_q.weight"; of token_embd.weight, out is a token."""

    architecture: str
    alpha: float  # the scale is alpha / rank of the pair; 0 = 1
    factors: Mapping[str, LoraFactors]
    stored: str = "F32"  # type of tensor that holds all values exactly: F32, F16 or BF16
    invocation_tokens: tuple[int, ...] = ()
    # DoRA: rows of the sum are scaled to these lengths (out,). No adapter's file can say so.
    lengths: Mapping[str, Floats] = field(default_factory=lambda: MappingProxyType({}))
    # Whole tensors, (out, in) or (out,), in the place of the model's. No adapter's file can hold them.
    replaced: Mapping[str, Floats] = field(default_factory=lambda: MappingProxyType({}))
    shares_table: bool = False  # a table that is embedding and output at once was learned as both

    def scale(self, name: str) -> float:
        return self.alpha / self.factors[name].rank if self.alpha else 1.0

    def require_adapter(self, where: str) -> None:
        """
        Raises:
            UnsupportedArtifact: it is more than factors.
        """
        for what, names in (("DoRA, which scales rows", self.lengths), ("whole matrices", self.replaced)):
            if names:
                message = f"{where} has {what}, as for {min(names)}: no adapter's file can say that"
                raise UnsupportedArtifact(message, hint="edgellm adapters merge ADAPTER --base MODEL --output FILE")


def sound(lora: Lora, where: str) -> Lora:
    """The same, with factors that multiply and are finite.

    Raises:
        BadArtifact: they do not, or hold a value that is no number.
    """
    if not (lora.factors or lora.replaced):
        raise BadArtifact(f"{where} changes nothing: it has no factors", hint="export the adapter again")
    if not math.isfinite(lora.alpha):
        raise BadArtifact(f"{where}: alpha is {lora.alpha}", hint="export the adapter again")
    for name, pair in lora.factors.items():
        if not 1 <= pair.rank <= MOST_RANK or pair.b.shape[-1] != pair.rank or pair.a.shape[:-2] != pair.b.shape[:-2]:
            what = f"factors of {name} do not multiply: A is {pair.a.shape}, B is {pair.b.shape}"
            raise BadArtifact(f"{where}: {what}", hint="export the adapter again")
    parts = {f"{name} ({end})": getattr(pair, end) for name, pair in lora.factors.items() for end in ("a", "b")}
    for name, values in (parts | dict(lora.lengths) | dict(lora.replaced)).items():
        if not np.isfinite(values).all():
            message = f"{where}: {name} has values that are infinite or no numbers"
            raise BadArtifact(message, hint="training went wrong, or the file is damaged: export an earlier checkpoint")
    return lora
