"""Why something was decided, as data: a kind with its numbers. `edgellm.explain` makes the sentences.

`Reason` says what was decided, `Refusal` (`edgellm.types.refusal`) why something was not taken. Both are closed unions,
one class for each kind, and mypy checks that each has a sentence. As JSON (`msgspec.to_builtins`) each is an object
whose `kind` is the class in snake case. Sizes are in bytes, rates in tokens per second, contexts in tokens per slot,
shares from 0 to 1.
"""

from __future__ import annotations

from typing import Literal

from edgellm.types.backend_reason import BackendReason, GpuReason
from edgellm.types.basis import Fact, RateBasis, Runs
from edgellm.types.criterion import Criterion, Stated
from edgellm.types.model_reason import ModelReason
from edgellm.types.sampling_defaults import SamplingDefaults

# Memory


class MachineBudget(Fact, frozen=True):
    """What a model may use of the machine."""

    budget_bytes: int
    total_bytes: int
    available_bytes: int | None  # None = planned as if nothing else ran
    limit_bytes: int | None = None  # of the container or the scheduler
    limit_used_bytes: int | None = None
    limit_source: str = ""
    cap: str = ""  # a rule of the system that leaves a program less
    desktop: bool = False  # the reserve holds a desktop's session, which is in no number


class RequestedBudget(Fact, frozen=True):
    """Less than the machine would allow, as the request says."""

    budget_bytes: int
    machine_bytes: int


BudgetReason = MachineBudget | RequestedBudget


class MemoryNeeded(Fact, frozen=True):
    """What the choice takes of the budget."""

    needed_bytes: int
    budget_bytes: int
    factor: float = 1.0  # by earlier runs here
    runs: Runs | None = None


class WeightsRead(Fact, frozen=True):
    """The file is read instead of mapped, as much of it is copied into another layout."""

    copied_bytes: int
    weights_bytes: int


class AdaptersBeside(Fact, frozen=True):
    """LoRA adapters that are loaded with the model, which leave it so much less memory."""

    names: tuple[str, ...]
    needed_bytes: int


# Context and cache


class ContextLength(Fact, frozen=True):
    """Tokens per slot, and what bounds them."""

    ctx: int
    bound: Literal[
        "asked", "task", "encoder", "encoder_memory", "speed", "memory", "trained", "unknown", "unasked", "gpu"
    ]
    tok_s: float | None = None  # decoding with half of the context cached
    floor_tps: float | None = None  # of "speed"
    task: str = ""  # of "task" and "unasked"
    ctx_train: int | None = None  # of "unasked": what --ctx may ask for
    budget: BudgetReason | None = None  # of "memory"
    alone: bool = False  # other programs run, and the rates are those without them
    alone_threads: int | None = None  # that they are with, where it takes fewer beside those programs
    most: int | None = None  # of "task", "speed", "memory" and "gpu": planned unasked where they allow it

    @property
    def is_much_shorter(self) -> bool:
        """A quarter of what it could be, or less."""
        return self.most is not None and 4 * self.ctx <= self.most


class SlotCount(Fact, frozen=True):
    """Conversations at the same time where their number was not asked for, and what bounds it."""

    n_slots: int
    bound: Literal["reads", "memory", "gpu", "speed", "most"]  # "reads": a model that writes nothing takes turns
    ctx: int | None = None  # tokens of each
    tok_s: float | None = None  # of each while all decode, with half of its context cached
    next_tok_s: float | None = None  # of "speed": with one more
    floor_tps: float | None = None  # of "speed"
    alone: bool = False  # other programs run, and the rates are those without them
    alone_threads: int | None = None  # that they are with, where it takes fewer beside those programs


class ContextUnknown(Fact, frozen=True):
    """The usual length: the file does not tell its shape, or its weights are of no known kind."""

    ctx_default: int
    is_shape_known: bool = False


class CacheType(Fact, frozen=True):
    """The type of the cache, where it is not simply f16."""

    kv_type: str
    cause: Literal["asked", "only_type", "memory", "speed"]
    backend: str = ""  # of "only_type"
    higher: str = ""  # the next more exact type, of "memory" and "speed"
    higher_bytes: int | None = None
    higher_tps: float | None = None
    ctx: int | None = None
    budget_bytes: int | None = None
    kept: tuple[float, float, float] | None = None  # share of the ability that it keeps: middle, least, most


# Speed and threads


class Speed(Fact, frozen=True):
    """The rate of the choice."""

    tok_s: float
    low: float
    high: float
    basis: RateBasis


class Threads(Fact, frozen=True):
    """Threads of a file that was named; `asked` where the request sets them."""

    threads: int
    asked: bool = False
    processors: int | None = None  # of this machine, where they are fewer: threads wait for each other at every step


class Thinks(Fact, frozen=True):
    """It thinks before it answers, because it was asked for or because it always does."""

    tokens: float  # for each token of the answer, an estimate
    always: bool


class FewerThreads(Fact, frozen=True):
    """More threads gain less than `gain`."""

    threads: int
    most: int
    gain: float


class ProcessorsBusy(Fact, frozen=True):
    """Other programs want the processors, too. No model is chosen by it, as they may be done at any time."""

    load: float  # processes that compute or wait to, on average over a minute
    processors: int
    threads: int  # that the choice decodes with
    least_tok_s: float  # that it may fall to
    instead_of: int | None = None  # threads, where it takes fewer as the others have been there for five minutes
    cpu_share: float = 1.0  # of the time, that processors compute; GPUs do the rest


class GpuSpeedUnknown(Fact, frozen=True):
    """The stated speed is the CPU's."""


class Prompts(Fact, frozen=True):
    """How fast prompts are read, where a GPU takes part."""

    tok_s: float
    low: float
    high: float
    basis: RateBasis


# Why a placement is not planned: RAM does not hold it, nobody knows its speed, another was asked for, its GPU is never
# taken unasked, it answers slower than the choice of the model counts on, or the usual request takes longer.
Lost = Literal["memory", "unknown", "asked", "unsuited", "answers", "request"]


class PlacementRow(Fact, frozen=True):
    """One of them."""

    layers: int  # on GPUs
    total: int
    devices: str  # "" = the processor alone
    experts_away: int
    tok_s: float | None  # None = not predicted
    prompt_tok_s: float | None
    lost: Lost
    request_s: float | None  # of the usual request, 512 tokens in and 256 out, cautiously
    needed_bytes: int  # of RAM


class OtherPlacements(Fact, frozen=True):
    """The next best places for the same model, with their speeds."""

    rows: tuple[PlacementRow, ...]
    request_s: float  # of the planned one
    least_tok_s: float  # that the choice of the model counts on
    budget_bytes: int  # of RAM


class Slow(Fact, frozen=True):
    """Nothing reaches the floor, so the fastest is taken."""

    floor_tps: float
    tok_s: float


class FloorWhenAlone(Fact, frozen=True):
    """The floor is reached when nothing else runs, and not with the threads that compute beside other programs."""

    floor_tps: float
    threads: int  # with which it is reached
    beside_threads: int
    tok_s: float  # of answer, with those


# The decision as a whole


class Considered(Fact, frozen=True):
    """What there was to choose from."""

    models: int
    model_kind: str
    files: int
    threads: int


class SourcesReached(Fact, frozen=True):
    """Some sources do not answer. `model` and `quant` are the best choice if all did."""

    offline: bool
    reachable: tuple[str, ...]
    files: int  # that can be had
    model: str
    quant: str
    best_can_be_had: bool = False


class SourceSilent(Fact, frozen=True):
    """A source does not answer."""

    scheme: str
    error: str


class NoRoom(Fact, frozen=True):
    """The choice must be fetched, and the disk it would lie on has too little room. No model is chosen by it."""

    model: str
    quant: str
    needed_bytes: int  # with what stays free there
    spare_bytes: int  # of them, what stays free
    free_bytes: int
    folder: str
    setting: str  # the variable that names a folder on another disk
    limit_bytes: int | None = None  # what `max_download` could be, for something else to be chosen that has room
    instead: str = ""  # that model
    instead_quant: str = ""


class RulesUnasked(Fact, frozen=True):
    """A plugin failed, and the selection rules that it may bring were not asked."""

    plugin: str
    distribution: str  # "name version"
    error: str


class ShorterContext(Fact, frozen=True):
    """Nothing holds the context that the task needs."""

    ctx: int
    task: str


class FilesKept(Fact, frozen=True):
    """How many files a rule left."""

    criterion: Criterion
    kept: int
    total: int
    smaller_cache: int = 0  # of those kept, with a smaller type of cache


MemoryReason = BudgetReason | MemoryNeeded | WeightsRead | AdaptersBeside
ContextReason = ContextLength | SlotCount | ContextUnknown | ShorterContext | CacheType
SpeedReason = Speed | ProcessorsBusy | Threads | Thinks | FewerThreads | Slow | FloorWhenAlone | GpuSpeedUnknown
PlacementReason = Prompts | OtherPlacements
SelectionReason = Considered | SourcesReached | SourceSilent | FilesKept | RulesUnasked | NoRoom
Reason = (
    MemoryReason
    | ContextReason
    | BackendReason
    | GpuReason
    | SpeedReason
    | PlacementReason
    | ModelReason
    | SelectionReason
    | SamplingDefaults
    | Stated
)
