"""What is tuned, how, what memory that takes, and what a tuner tells while it works."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from edgellm.types.checks import check_range, check_types
from edgellm.types.tune_device import CPU, device_name

# rslora: alpha / sqrt(rank) instead of alpha / rank. lora-fa: A is frozen. vera: A and B are random, frozen and shared
# by all layers. delta-lora: telescoped, the base stays as it is.
Method = Literal["lora", "rslora", "lora-fa", "lora+", "vera", "delta-lora", "dora", "full"]
METHODS: tuple[Method, ...] = get_args(Method)
Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
MAX_RANK = 1024
MAX_LENGTH = 1024**2
MAX_ROWS = 4096
MAX_EPOCHS = 1000


class TuneSettings(msgspec.Struct, frozen=True):
    """How a model is tuned. Complete: a tuner adds nothing of its own.

    Raises:
        UsageError: a value is of another type, or out of range.
    """

    method: Method = "lora"
    rank: int = 16
    alpha: float = 32.0
    learning_rate: float = 2e-4  # at its highest
    lora_plus_ratio: float = 4.0  # of lora+: the rate of B, in rates of A
    length: int = 512  # most tokens in a row
    batch: int = 8  # rows that are computed together
    accumulate: int = 1  # batches for one step of the optimizer
    checkpointing: bool = True  # activations of a layer are computed again when its gradient is
    quantized: bool = True  # the base stays in its blocks; one matrix at a time is unpacked
    epochs: int = 1
    max_steps: int = 0  # of the optimizer; 0 = as many as the epochs have
    warmup_share: float = 0.03  # of the steps, in which the rate rises from 0
    schedule: Schedule = "linear"  # how the rate falls to 0 then
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # gradients are scaled down to it; 0 = they are not
    seed: int = 0  # of the first values, and of the order of rows
    n_threads: int = 1
    delta_scale: float = 2.0  # of delta-lora: lambda
    delta_start: int = 500  # of delta-lora: the step K from which on it counts
    vera_seed: int = 0  # of VeRA's shared matrices
    eval_every: int = 0  # steps between two looks at the held-out rows; 0 = an epoch
    patience: int = 0  # evaluations without a better one until it stops early; 0 = it does not
    checkpoint_every: int = 50  # most steps between two checkpoints, which also come when a minute has passed
    device: str = CPU  # where it computes, as torch names it: "cuda:0", "mps", "xpu:0"

    def __post_init__(self) -> None:
        check_range(self.method in METHODS, f"method={self.method}", ", ".join(METHODS))
        check_range(self.schedule in SCHEDULES, f"schedule={self.schedule}", ", ".join(SCHEDULES))
        check_types(self)
        check_range(device_name(self.device) == self.device, f"device={self.device}", "cpu, mps, cuda:N or xpu:N")
        for name, most in (
            ("rank", MAX_RANK),
            ("length", MAX_LENGTH),
            ("batch", MAX_ROWS),
            ("accumulate", MAX_ROWS),
            ("epochs", MAX_EPOCHS),
            ("n_threads", 1024),
            ("checkpoint_every", 2**31),
        ):
            value = getattr(self, name)
            check_range(1 <= value <= most, f"{name}={value}", f"1 to {most}")
        for name in ("max_steps", "seed", "delta_start", "vera_seed", "eval_every", "patience"):
            value = getattr(self, name)
            check_range(0 <= value < 2**31, f"{name}={value}", "0 to 2147483647")
        for name, most_of in (("alpha", 1e6), ("learning_rate", 1.0), ("lora_plus_ratio", 1e4), ("delta_scale", 1e3)):
            value = getattr(self, name)
            check_range(0.0 < value <= most_of, f"{name}={value}", f"above 0, at most {most_of:g}")
        check_range(0.0 <= self.warmup_share < 1.0, f"warmup_share={self.warmup_share}", "0 to below 1")
        check_range(0.0 <= self.weight_decay <= 1.0, f"weight_decay={self.weight_decay}", "0 to 1")
        check_range(0.0 <= self.max_grad_norm <= 1e6, f"max_grad_norm={self.max_grad_norm}", "0 to 1e6")


class TuneSize(msgspec.Struct, frozen=True):
    """How much there is to learn from, which memory and time follow from."""

    n_rows: int  # packed
    n_tokens: int  # in one epoch, without padding
    n_supervised: int  # of them
    most_supervised: int  # in one row
    longest: int  # tokens of the longest row


class TuneFootprint(msgspec.Struct, frozen=True):
    """Bytes that tuning takes at its highest, by term: all of RAM, or on a GPU the first seven, with `spare_bytes`, of
    its memory."""

    weights_bytes: int  # of the base, as they are held
    unpacked_bytes: int  # matrices that are unpacked for the moment
    trained_bytes: int  # what is trained, and what of it is kept beside
    gradient_bytes: int
    optimizer_bytes: int  # moments
    activation_bytes: int
    logits_bytes: int  # of one part of the loss, with its gradient
    data_bytes: int  # rows
    process_bytes: int  # interpreter and libraries
    on_device: bool = False
    spare_bytes: int = 0  # of a GPU: what its allocator rounds up or cannot use again, and room that libraries work in
    copies_bytes: int = 0  # in RAM, of what a GPU holds: while it is loaded, and while a checkpoint is written

    @property
    def needed_bytes(self) -> int:
        """Of RAM."""
        beside = self.data_bytes + self.process_bytes + self.copies_bytes
        return beside if self.on_device else beside + self._computed_bytes

    @property
    def device_bytes(self) -> int:
        """Of a GPU's memory, beside the context that a process has there."""
        return self._computed_bytes + self.spare_bytes if self.on_device else 0

    @property
    def _computed_bytes(self) -> int:
        weights = self.weights_bytes + self.unpacked_bytes
        return (
            weights
            + self.trained_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
            + self.activation_bytes
            + (self.logits_bytes)
        )


class TuneStarted(msgspec.Struct, frozen=True, tag=True):
    n_steps: int
    n_trained: int  # values
    build: str  # of the library that computes: `Trainer.build`
    first_step: int = 0  # steps that an earlier run has made
    exact: bool = True  # whether its steps and these have the bits that one run would have
    damaged: tuple[str, ...] = ()  # newer checkpoints that could not be read
    control: bool = False  # what follows is of the run on answers that were dealt out anew


class TuneProgress(msgspec.Struct, frozen=True, tag=True):
    """After a step of the optimizer."""

    step: int  # made so far
    n_steps: int
    loss: float  # nats per supervised token of this step's rows, before the step
    learning_rate: float
    n_tokens: int  # read in this run so far
    tok_s: float
    left_s: float  # at this rate


class TuneEvaluation(msgspec.Struct, frozen=True, tag=True):
    """The held-out rows. Of step 0: before anything was learned."""

    step: int
    loss: float  # nats per supervised token
    n_supervised: int
    is_best: bool  # of those until then
    losses: tuple[float, ...]  # nats of each batch of them


class TuneSample(msgspec.Struct, frozen=True, tag=True):
    """A held-out question, as the model answers it at this step with the likeliest token each time."""

    step: int
    row: int  # of the held-out ones
    wanted: str  # the beginning of the answer that the data have
    answer: str
    question: str = ""  # the end of what was asked; a worker does not know it


TuneEnd = Literal["complete", "no_gain", "asked"]  # all steps; held-out rows no better; the user


class TuneFinished(msgspec.Struct, frozen=True, tag=True):
    path: str  # of the factors; "" = it was ended before this run made a step
    step: int  # that the factors are of
    n_steps: int  # made, by earlier runs too; 0 where there are no factors
    end: TuneEnd
    wall_s: float  # of this run
    processor_s: float


TuneEvent = TuneStarted | TuneProgress | TuneEvaluation | TuneSample | TuneFinished
