"""Where a number comes from, as data: its kind, and the numbers that it rests on.

Each union is closed: `edgellm.explain` has a sentence for every kind in it, which mypy checks. As JSON
(`msgspec.to_builtins`) a basis is an object whose `kind` is the class in snake case.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from edgellm.types.gpu import Api, Known


def kind(name: str) -> str:
    """`"CorrectedRate"` -> `"corrected_rate"`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Fact(Struct, frozen=True, tag_field="kind", tag=kind):
    """Base of bases and reasons: immutable, comparable, hashable."""


# Of corrections: which runs on this machine they were learned from.


class OwnRuns(Fact, frozen=True):
    """The same file with the same type of cache ran here."""

    runs: int
    model: str
    quant: str
    kv_type: str


class OtherCaches(Fact, frozen=True):
    """The same file ran here, with other types of cache."""

    model: str
    quant: str
    kv_types: tuple[str, ...]


class SameModel(Fact, frozen=True):
    """The model ran here in other files."""

    model: str
    files: int


class SameFamily(Fact, frozen=True):
    """Other files whose kernels are alike ran here."""

    family: str  # of tensor types, as `history.corrections.family` names it
    backend: str
    files: int
    gpus: tuple[str, ...] = ()  # on which they ran; empty = on the processor


class SameBackend(Fact, frozen=True):
    """Other files ran here on the backend."""

    backend: str
    files: int
    gpus: tuple[str, ...] = ()


Runs = OwnRuns | OtherCaches | SameModel | SameFamily | SameBackend


# Of rates.


class Bandwidth(Fact, frozen=True):
    """What decoding can read from memory."""

    source: Literal["measured", "theoretical", "assumed"]
    gb_s: float  # as measured, on the data sheet, or assumed; 1e9 bytes per second
    reached_gb_s: float  # what is counted on
    contended: bool = False  # measured while other programs ran


Bound = Literal["memory", "arithmetic", "launches"]


class Predicted(Fact, frozen=True):
    """From priors for the kind of processor."""

    threads: int
    isa_class: str
    bound: Bound | None = None  # None = prompts, which arithmetic bounds
    bandwidth: Bandwidth | None = None
    depth: int | None = None  # tokens cached


class PredictedOnGpu(Fact, frozen=True):
    """From the data sheet of a GPU, and what GPUs of its kind reached."""

    gpu: str
    known: Known  # how well it is known
    api: Api
    bound: Bound
    gb_s: float  # its bandwidth, 1e9 bytes per second
    depth: int | None = None  # tokens cached; None = prompts


class PredictedSplit(Fact, frozen=True):
    """From the times of several devices that share a model; a token passes them one after another."""

    gpus: tuple[str, ...]
    gpu_ms: tuple[float, ...]  # of one token, on each
    cpu_ms: float  # on the processor; 0 = it computes nothing
    threads: int
    depth: int  # tokens cached


class PredictedStream(Fact, frozen=True):
    """Of prompts, where weights that lie in RAM are copied to a GPU for each batch."""

    gpu: str
    host_bytes: int  # that a batch needs
    link_gb_s: float
    ubatch: int  # tokens in a batch


class PredictedByProvider(Fact, frozen=True):
    """From published figures of another library on a GPU, as factors of what llama.cpp is predicted there."""

    provider: str
    low: float
    factor: float
    high: float
    source: str  # "" = nothing is published, and the factors are a guess
    of: PredictedOnGpu
    copied_bytes: int = 0  # of the cache, in each step, there and back
    link_gb_s: float | None = None  # that they take


class Measured(Fact, frozen=True):
    """From rates of this machine's kernels (`edgellm calibrate`)."""

    date: str
    build: str
    threads: int
    measured_threads: int
    borrowed: tuple[tuple[str, str], ...] = ()  # (tensor type, the measured one that it is scaled from)
    depth: int | None = None  # tokens cached
    taken: float | None = None  # share of the processors' time that other programs had meanwhile; None = not known
    waited: float | None = None  # share of its time for which it had no processor


class Corrected(Fact, frozen=True):
    """Another basis, times what earlier runs here made of such predictions."""

    factor: float
    runs: Runs
    of: Predicted | PredictedOnGpu | PredictedSplit | PredictedStream | PredictedByProvider | Measured


RateBasis = Predicted | PredictedOnGpu | PredictedSplit | PredictedStream | PredictedByProvider | Measured | Corrected
RateKind = Literal["predicted", "measured", "corrected"]


def rate_kind(basis: RateBasis) -> RateKind:
    """The kind in a word."""
    if isinstance(basis, Predicted | PredictedOnGpu | PredictedSplit | PredictedStream | PredictedByProvider):
        return "predicted"
    return "measured" if isinstance(basis, Measured) else "corrected"


# Of quality: what a quantization or a cache loses, and what the whole model can do.


class NativeType(Fact, frozen=True):
    """The model was trained in this type."""


class Unquantized(Fact, frozen=True):
    """Nothing was rounded."""


class PerplexityIncrease(Fact, frozen=True):
    """From the table of published losses."""

    percent: float
    by_types: bool = False  # by the types that short rows allow instead of the mix's name
    family: str = ""  # whose own losses were measured
    family_factor: float = 1.0


class CacheLoss(Fact, frozen=True):
    """From the table of losses of a quantized cache."""

    kv_type: str
    percent: float


class MeasuredDivergence(Fact, frozen=True):
    """KL divergence to the unquantized model, measured on this machine."""

    nats: float


LossBasis = NativeType | Unquantized | PerplexityIncrease | CacheLoss | MeasuredDivergence


class Losses(Fact, frozen=True):
    """Of weights and cache together."""

    losses: tuple[LossBasis, ...]


class PublishedScore(Fact, frozen=True):
    """A vendor's score, converted where it is of another benchmark."""

    benchmark: str
    score: float
    conversion: Literal["none", "without_thinking", "line", "one_anchor"] = "none"
    mid: float | None = None  # what it is taken as


class Imputed(Fact, frozen=True):
    """No score is published: from the size of the model, and from a relative's score where there is one."""

    sibling: str = ""


class TrainedForCode(Fact, frozen=True):
    """Another basis, times a factor for code or for everything else."""

    factor: float
    of: PublishedScore | Imputed


AbilityBasis = PublishedScore | Imputed | TrainedForCode
EstimateBasis = Losses | AbilityBasis
Basis = Runs | Bandwidth | RateBasis | LossBasis | EstimateBasis
