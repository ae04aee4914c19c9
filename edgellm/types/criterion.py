"""What a rule asks of a model's file, and by what a quantization is chosen, as data. See `edgellm.types.reason`."""

from __future__ import annotations

from typing import Literal

from edgellm.types.basis import Fact


class Stated(Fact, frozen=True):
    """In the words of somebody else: a plugin, or a library."""

    text: str


# What a rule asks


class QualityChecked(Fact, frozen=True):
    """Criterion: no quality check on this machine refused it."""


class TrainedContext(Fact, frozen=True):
    """Criterion: trained for so much context."""

    ctx: int


class SmallDownload(Fact, frozen=True):
    """Criterion: on this disk, or no more to fetch than that."""

    limit_bytes: int


class FitsBudget(Fact, frozen=True):
    """Criterion: fits the memory budget."""

    budget_bytes: int


class EnoughBits(Fact, frozen=True):
    """Criterion: weights in so many bits or more."""

    bits: int


class RoomForContext(Fact, frozen=True):
    """Criterion: memory and training allow so much context."""

    ctx: int


class ReachesFloor(Fact, frozen=True):
    """Criterion: fast enough for the task."""

    floor_tps: float
    task: str


class NotDominated(Fact, frozen=True):
    """Criterion: no other file of the model is better in bytes, speed and quality at once."""


Criterion = (
    QualityChecked
    | TrainedContext
    | SmallDownload
    | FitsBudget
    | EnoughBits
    | RoomForContext
    | ReachesFloor
    | NotDominated
    | Stated
)


# By what the quantization of a model is chosen

# What took higher ones of the model away before: the limit of a download, sources that do not answer, the backend that
# was asked for; "rules" = a quality check, a plugin's rule, or several of all these. "" = nothing.
LostTo = Literal["", "download", "sources", "backend", "rules"]


class NativeQuant(Fact, frozen=True):
    """The type that the model was trained in."""


class SurelyKeepsFloor(Fact, frozen=True):
    """The best whose slowest predicted rate keeps the floor."""

    floor_tps: float
    alone: bool = False  # other programs run, and the rate is the one without them
    alone_threads: int | None = None  # that it is with, where it takes fewer beside those programs
    lost_to: LostTo = ""  # what took higher ones away
    limit_bytes: int | None = None  # of "download"
    backend: str = ""  # of "backend"


class KeepsMoreThan(Fact, frozen=True):
    """With its cache it keeps more of the ability than `quant` with `quant_kv_type`."""

    kv_type: str
    quant: str
    quant_kv_type: str


class SmallModelQuant(Fact, frozen=True):
    """The least that a small model takes where it fits."""

    quant: str


class OnlyQuant(Fact, frozen=True):
    """There is no other file of the model."""


class OnlyQuantLeft(Fact, frozen=True):
    """There are other files of the model, and none of them can be had or run here."""


class BestThatFits(Fact, frozen=True):
    """No other rule applies."""

    lost_to: LostTo = ""  # what took higher ones away
    limit_bytes: int | None = None  # of "download"
    backend: str = ""  # of "backend"


class Comfortable(Fact, frozen=True):
    """The best that is comfortably fast."""

    tok_s: float
    lost_to: LostTo = ""  # what took higher ones away
    limit_bytes: int | None = None  # of "download"
    backend: str = ""  # of "backend"


class FourBitsSuffice(Fact, frozen=True):
    """A large model loses little at 4 bits."""


class OnThisDisk(Fact, frozen=True):
    """It is on this disk, and what would have to be fetched is hardly better."""

    quant: str  # that would have to be fetched
    quant_kept: float  # share of the ability that it keeps
    kept: float


Highest = SurelyKeepsFloor | BestThatFits | Comfortable
QuantCriterion = (
    NativeQuant
    | SurelyKeepsFloor
    | KeepsMoreThan
    | SmallModelQuant
    | OnlyQuant
    | OnlyQuantLeft
    | BestThatFits
    | Comfortable
    | FourBitsSuffice
    | OnThisDisk
)
