"""Why a model and its file were taken: typed reasons, one class for each kind."""

from __future__ import annotations

from typing import Literal

from edgellm.types.basis import AbilityBasis, Fact
from edgellm.types.criterion import QuantCriterion


class ModelNamed(Fact, frozen=True):
    """Nothing was chosen: the user named a file, an address or the built-in model."""

    model: str
    by: Literal["file", "address", "echo"]
    quant: str = ""
    source: str = ""


class NameShadowsFile(Fact, frozen=True):
    """A model of the catalog was named, and a file or folder of that name is here, too."""

    model: str
    path: str


class NameTaken(Fact, frozen=True):
    """No model has the name that was written; this one was taken for it."""

    model: str
    typed: str


class ModelSkipped(Fact, frozen=True):
    """The best choice could not be fetched."""

    model: str
    quant: str
    error: str


class BestModel(Fact, frozen=True):
    """The model, by ability left after compression and worth of speed; scores of 100."""

    model: str
    params: int
    score: float
    ability: float
    ability_basis: AbilityBasis
    kept: float
    quant: str
    alone: bool = False  # no other model was left
    named: bool = False  # no other took part


class ChosenQuant(Fact, frozen=True):
    """The quantization."""

    quant: str
    bits: float  # per weight
    tensor_bytes: int
    why: QuantCriterion


class FewerBitsScoreMore(Fact, frozen=True):
    """By the table a file in 2 or 3 bits would be better."""

    model: str
    quant: str
    score: float
    chosen_score: float
    quality_low: float
    quality_high: float


class FewerBitsTaken(Fact, frozen=True):
    """Nothing fits at `bits` bits a weight."""

    bits: int


class SizeEstimated(Fact, frozen=True):
    """The parts of the architecture are not known one by one."""


class NotQuantized(Fact, frozen=True):
    """The named file could be quantized here."""

    model: str


class CouldBeMade(Fact, frozen=True):
    """A quantization that is not to be had can be made here of a higher one."""

    model: str
    quant: str
    score: float
    instead: str = ""  # model that is taken; "" = none
    instead_quant: str = ""
    instead_score: float | None = None
    path: str = ""  # of the file to make it of, where it lies in none of our folders; "" = the model's id names it


class NameConvention(Fact, frozen=True):
    """The repository usually has this file; it was not looked up."""


class LicenseRestricts(Fact, frozen=True):
    """The licence restricts use."""

    license: str


FileReason = SizeEstimated | NotQuantized | NameConvention | LicenseRestricts
ModelReason = (
    ModelNamed
    | NameShadowsFile
    | NameTaken
    | ModelSkipped
    | BestModel
    | ChosenQuant
    | FewerBitsScoreMore
    | FewerBitsTaken
    | CouldBeMade
    | FileReason
)
