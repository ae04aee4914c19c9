"""What a person asks of a tuning, what is told before it starts, and what came of it."""

from __future__ import annotations

import math
import re
from typing import Any, Self, TypedDict

from msgspec import Struct

from edgellm.errors import UsageError
from edgellm.types.checks import check_names, check_range, check_types, plain_numbers
from edgellm.types.tune_device import device_name
from edgellm.types.tune_reason import TuneChoice
from edgellm.types.tuning import METHODS, Method, TuneSettings, TuneSize
from edgellm.types.tuning_data import DataReport
from edgellm.types.tuning_gate import Gate, PairedGain
from edgellm.units import parse_bytes

MOST_SHOTS = 64
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
_TIME = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([a-z]+)\s*", re.IGNORECASE | re.ASCII)


class TuneOptions(Struct, frozen=True, kw_only=True):
    """What a tuning is asked for. None = decide for me."""

    name: str | None = None  # of the adapter; None = that of the data's file
    time: float | str | None = None  # most seconds that it may take, or text such as "30m"
    max_memory: int | str | None = None  # bytes, or text such as "2GiB"; None = what is free, less a reserve
    method: Method | None = None  # one of `edgellm.types.tuning.METHODS`
    rank: int | None = None  # of the factors
    length: int | None = None  # most tokens of an example; longer ones are cut
    batch: int | None = None  # rows that are computed together
    epochs: int | None = None  # how often each example is read
    learning_rate: float | None = None  # at its highest
    seed: int = 0  # of the order of rows, and of first values
    held_out: float = 0.1  # examples that are not learned, but judge: a share, or from 1 on how many
    threads: int | None = None  # None = what fits the machine
    shots: int | None = None  # examples in the prompt of the base that it is compared with; None = one of each class
    general: str | None = None  # a file of text that shows what is forgotten; None = one that ships, "none" = no look
    control: bool = False  # also tune on answers that were dealt out anew: that must not help
    against: str | None = None  # another model, not tuned, that answers the same held-out questions
    nice: int = 19  # how far it yields to other programs: 19 = whatever they do, 0 = it takes its share
    to: str | None = None  # of dora and full, which make a model and no adapter: its quantization; None = Q8_0
    device: str | None = None  # "cpu", "cuda", "cuda:1", "mps" or "xpu"; None or "auto" = a GPU where that is better

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Options by name. Raises UsageError for an unknown one, and for one of another type or out of range."""
        check_names(options, cls.__struct_fields__)
        return cls(**plain_numbers(options))

    def __post_init__(self) -> None:
        check_range(self.method in (None, *METHODS), f"method={self.method}", ", ".join(METHODS))
        check_types(self, "these options cannot be used")
        check_range(0 <= self.held_out < 1e6, f"held_out={self.held_out}", "a share below 1, or a number of examples")
        check_range(0 <= self.seed < 2**31, f"seed={self.seed}", "0 to 2147483647")
        check_range(0 <= self.nice <= 19, f"nice={self.nice}", "0 to 19")
        check_range(self.shots is None or 0 <= self.shots <= MOST_SHOTS, f"shots={self.shots}", f"0 to {MOST_SHOTS}")
        _ = self.asked(), self.seconds, self.memory_bytes, self.asked_device

    @property
    def seconds(self) -> float | None:
        """
        Raises:
            UsageError: it is no time.
        """
        if self.time is None:
            return None
        match = _TIME.fullmatch(self.time) if isinstance(self.time, str) else None
        seconds = float(match[1]) * _SECONDS.get(match[2].lower(), 0) if match else 0.0
        seconds = seconds if isinstance(self.time, str) else self.time
        if not (math.isfinite(seconds) and seconds > 0):
            raise UsageError(f"{self.time!r} is no time", hint="write it as 30m, 2h or 90s", param="time")
        return seconds

    @property
    def memory_bytes(self) -> int | None:
        """
        Raises:
            UsageError: it is no size.
        """
        return parse_bytes(self.max_memory, "max_memory") if isinstance(self.max_memory, str) else self.max_memory

    @property
    def asked_device(self) -> str | None:
        """As torch names it; None = it is chosen.

        Raises:
            UsageError: it is none.
        """
        if self.device is None or self.device.strip().lower() == "auto":
            return None
        return device_name(self.device)

    def asked(self) -> dict[str, Any]:
        """The fields of `TuneSettings` that are set.

        Raises:
            UsageError: a value is out of range.
        """
        names = ("method", "rank", "length", "batch", "epochs", "learning_rate")
        asked = {name: value for name in names if (value := getattr(self, name)) is not None}
        TuneSettings(**asked)
        return asked


class TuneKeywords(TypedDict, total=False):
    """`TuneOptions` as keyword arguments."""

    name: str | None
    time: float | str | None
    max_memory: int | str | None
    method: Method | None
    rank: int | None
    length: int | None
    batch: int | None
    epochs: int | None
    learning_rate: float | None
    seed: int
    held_out: float
    threads: int | None
    shots: int | None
    general: str | None
    control: bool
    against: str | None
    nice: int
    to: str | None
    device: str | None


class TunePreview(Struct, frozen=True, kw_only=True):
    """What is known before it starts."""

    base: str  # id of the model
    quant: str
    name: str  # of the adapter that it makes
    tuner: str
    choice: TuneChoice  # settings, memory and time, with reasons
    size: TuneSize  # of the packed rows
    report: DataReport  # what is wrong with which line
    n_examples: int  # that are learned
    n_held_out: int
    n_steps: int
    n_tokens: int  # that will be read
    resumes: bool  # an earlier run with the same data and options was ended
    classes: dict[str, int] | None = None  # examples of each answer; None = answers are texts of their own
    untested: tuple[str, ...] = ()  # classes that nothing judges
    n_alike: int = 0  # examples that are not learned, as they almost repeat what judges
    disk_bytes: int = 0  # that it takes at its highest: checkpoints, and what comes of it
    merged_quant: str = ""  # what comes of it is a model, in this quantization; "" = an adapter
    missing: str = ""  # what has to be done before it can run; "" = nothing
    control: bool = False  # it is done once more with answers that were dealt out anew, which takes as long again


class Tuned(Struct, frozen=True, kw_only=True):
    """What came of it."""

    model: str  # BASE:NAME
    path: str  # of the adapter, or of the model
    steps: int  # that were made, over all runs
    best_step: int  # that the adapter is of
    wall_s: float  # of the last run, with what it was asked
    processor_s: float
    loss_before: float | None = None  # nats per supervised token of the held-out examples; None = none are held out
    loss_after: float | None = None
    gate: Gate | None = None  # what the served model showed before and after; None = it was not asked

    @property
    def gain(self) -> PairedGain | None:
        """Of right answers; None where no held-out example is a question."""
        return self.gate.zero_shot if self.gate is not None else None
