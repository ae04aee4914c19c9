"""Why a model is tuned as it is, as data: each choice with the numbers that it was taken on."""

from __future__ import annotations

import msgspec

from edgellm.types.basis import Fact
from edgellm.types.tuning import Method, TuneFootprint, TuneSettings


class TuneMethodChosen(Fact, frozen=True):
    method: Method
    asked: bool  # by the user
    learning_rate: float  # at its highest


class TuneRankChosen(Fact, frozen=True):
    rank: int
    asked: bool
    n_supervised: int  # tokens in all data
    capacity: int  # of them, that so many trained values hold; 0 = the method has no rank
    saves_memory: bool = False  # a larger one was usual, and did not fit


class TuneLengthChosen(Fact, frozen=True):
    length: int
    asked: bool
    longest: int  # tokens of an example
    share_whole: float  # of the examples
    saves_memory: bool = False


class TuneRowsChosen(Fact, frozen=True):
    """How many examples make a step of the optimizer."""

    batch: int
    accumulate: int
    examples: float


class TuneMemoryChosen(Fact, frozen=True):
    """Of all ways that fit, the fastest."""

    checkpointing: bool
    quantized: bool
    needed_bytes: int
    budget_bytes: int
    tok_s: float


class TuneTimeChosen(Fact, frozen=True):
    epochs: int
    n_steps: int
    wall_s: float  # as predicted, on a quiet machine
    low_s: float  # what that may come to on machines whose rate was not measured
    high_s: float
    asked_s: float | None = None
    cut: bool = False  # the time asked for ends it before the data do


class TuneBusy(Fact, frozen=True):
    """Other programs want the processors, too. No choice is made by it, as they may be done at any time."""

    load: float  # processes that compute or wait to, on average over a minute
    processors: int
    nice: int  # how far it yields to them
    wall_s: float  # that it may take until they are done
    equal_s: float  # the same if it yields to nobody


TuneReason = (
    TuneMethodChosen | TuneRankChosen | TuneLengthChosen | TuneRowsChosen | TuneMemoryChosen | TuneTimeChosen | TuneBusy
)


class TuneAlternative(Fact, frozen=True):
    """What was not taken: it does not fit, or it fits and is slower."""

    method: Method
    rank: int
    length: int
    batch: int
    checkpointing: bool
    quantized: bool
    needed_bytes: int
    tok_s: float
    fits: bool


class TuneChoice(msgspec.Struct, frozen=True):
    """What will be done, or why it cannot be. `settings`: those that need least, where nothing fits."""

    fits: bool
    settings: TuneSettings
    footprint: TuneFootprint
    budget_bytes: int
    tok_s: float
    wall_s: float
    reasons: tuple[TuneReason, ...]
    rejected: tuple[TuneAlternative, ...]
    instead: TuneSettings | None = None  # where what was asked does not fit: other settings, which do
