"""Why a model is tuned as it is, as data: each choice with the numbers that it was taken on."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgellm.types.basis import Fact
from edgellm.types.tune_device import TuneDevice
from edgellm.types.tuning import Method, TuneFootprint, TuneSettings

# What is wrong with a GPU: the tuner's library has no code for it; no program reaches it; another one was named for all
# that computes here (EDGELLM_DEVICE); it holds less than this takes; it is slower than the processor; nothing tells how
# fast it is; the tuning began on another device, and goes on there to the same bytes.
PassedWhy = Literal["no_code", "unusable", "not_named", "no_room", "slower", "unknown_speed", "began_elsewhere"]


class TuneDevicePassed(Fact, frozen=True):
    """A GPU that is not taken."""

    device: str
    description: str
    why: PassedWhy
    needed_bytes: int = 0  # of its memory
    room_bytes: int = 0
    tok_s: float = 0.0  # there
    processor_tok_s: float = 0.0
    lacks: str = ""  # of the library, and what gets it
    remedy: str = ""


class TuneDeviceChosen(Fact, frozen=True):
    """Where it computes. Of a GPU: bytes of its memory, of which `room_bytes` may be used now."""

    device: str
    asked: bool
    n_passed: int = 0  # GPUs that are here and are not taken
    description: str = ""
    needed_bytes: int = 0
    room_bytes: int = 0
    held_bytes: int = 0  # by other programs, now
    host_bytes: int = 0  # of RAM beside it
    unified: bool = False


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
    needed_bytes: int  # of RAM
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
    TuneDevicePassed
    | TuneDeviceChosen
    | TuneMethodChosen
    | TuneRankChosen
    | TuneLengthChosen
    | TuneRowsChosen
    | TuneMemoryChosen
    | TuneTimeChosen
    | TuneBusy
)


class TuneAlternative(Fact, frozen=True):
    """What was not taken: it does not fit, or it fits and is slower."""

    method: Method
    rank: int
    length: int
    batch: int
    checkpointing: bool
    quantized: bool
    needed_bytes: int  # as `TuneChoice.needed_bytes`
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
    device: TuneDevice | None = None  # the GPU; None = the processor

    @property
    def needed_bytes(self) -> int:
        """Of the memory that decides: the GPU's own where it is computed on one, else RAM."""
        return scarce_bytes(self.footprint, self.device)


def scarce_bytes(footprint: TuneFootprint, device: TuneDevice | None) -> int:
    """Of the memory that decides."""
    if device is None:
        return footprint.needed_bytes
    return footprint.device_bytes + (footprint.needed_bytes if device.unified else 0)
