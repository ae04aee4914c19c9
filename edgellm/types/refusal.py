"""Why something was not taken, as data: a kind with the numbers that it failed on. See `edgellm.types.reason`."""

from __future__ import annotations

from typing import Literal

from edgellm.types.backend_reason import BackendCannotRun, Faster, OwnKernels
from edgellm.types.basis import Fact, RateKind
from edgellm.types.criterion import QuantCriterion, Stated
from edgellm.types.reason import Reason


class WrongKind(Fact, frozen=True):
    """Not of the kind that the task is for."""

    model_kind: str


class ShapeUnknown(Fact, frozen=True):
    """Neither memory nor speed can be predicted."""


class NoFiles(Fact, frozen=True):
    """No published file is known."""


class FileGone(Fact, frozen=True):
    """Its row names a file on this disk that is not there."""

    path: str


class SchemeUnknown(Fact, frozen=True):
    """Its row names a source that no plugin brings."""

    scheme: str  # "" = none
    known: tuple[str, ...]


Absence = FileGone | SchemeUnknown


class SizeUnknown(Fact, frozen=True):
    """No rule gives the size, and none is published."""

    quant: str


class FormatNotOpened(Fact, frozen=True):
    """The backend opens other formats."""

    backend: str
    formats: tuple[str, ...]
    format: str


class NoKernels(Fact, frozen=True):
    """The backend does not compute with this quantization."""

    backend: str
    quant: str


class NotStockType(Fact, frozen=True):
    """No type of stock llama.cpp, which the backend runs."""

    backend: str
    quant: str


class ArchNotLoaded(Fact, frozen=True):
    """This build of the backend does not load the architecture."""

    backend: str
    arch: str


class TensorTypeNotOpened(Fact, frozen=True):
    """This build of the backend does not open tensors of this type."""

    backend: str
    tensor_type: str


class CacheTypeNotHeld(Fact, frozen=True):
    """The backend holds a cache in other types."""

    backend: str
    kv_types: tuple[str, ...]
    kv_type: str


class CacheHeadSize(Fact, frozen=True):
    """Heads are no multiple of a quantized cache's block."""

    kv_type: str
    block: int
    head_dim: int


class TrainedForLess(Fact, frozen=True):
    """The model was trained for less context."""

    ctx_train: int
    ctx: int
    task: str = ""  # whose need `ctx` is; "" = as asked


class LargeDownload(Fact, frozen=True):
    """It would have to be fetched, and is larger than the request allows."""

    download_bytes: int
    limit_bytes: int


class NeedsMemory(Fact, frozen=True):
    """More than may be used."""

    needed_bytes: int
    budget_bytes: int
    ctx: int
    kv_type: str


class LayersDoNotFit(Fact, frozen=True):
    """Layers that were asked for."""

    layers: int
    total: int
    needed_bytes: int
    usable_bytes: int
    devices: str
    fitting: int


class WholeModelOnly(Fact, frozen=True):
    """Some of the layers were asked for, on a device that computes all of them or none."""

    layers: int
    total: int
    device: str


class FewBits(Fact, frozen=True):
    """Too many of its weights are in few bits."""

    share: float  # of the weights
    bits: int  # that they have fewer than


class TooSlow(Fact, frozen=True):
    """Below the floor."""

    tok_s: float
    answer_tok_s: float  # what the floor is compared with: less than `tok_s` where the model always thinks first
    floor_tps: float
    basis: RateKind
    thinking: bool
    kv_type: str


class Dominated(Fact, frozen=True):
    """By a quantization that is no bigger, no slower and no worse."""

    quant: str


class ScoresLess(Fact, frozen=True):
    """Another model is better."""

    score: float
    quant: str
    best: str
    best_score: float


class OtherQuantPreferred(Fact, frozen=True):
    """Another quantization of the chosen model is taken."""

    quant: str
    why: QuantCriterion


class OtherBackendPreferred(Fact, frozen=True):
    """Another backend runs the same quantization."""

    backend: str
    other: str
    why: Faster | OwnKernels


class OtherFilePreferred(Fact, frozen=True):
    """The same quantization is taken from another source."""

    source: str


BackendRefusal = (
    FormatNotOpened
    | NoKernels
    | NotStockType
    | ArchNotLoaded
    | TensorTypeNotOpened
    | CacheTypeNotHeld
    | CacheHeadSize
    | Stated
)


class AdapterMisfit(Fact, frozen=True):
    """It cannot answer with an adapter that was asked for."""

    adapter: str
    what: Literal["format", "file", "architecture", "matrix"]
    has: str  # the model
    needs: str  # the adapter


class NoBackendOpens(Fact, frozen=True):
    """What each backend says of the file."""

    refusals: tuple[BackendRefusal, ...]


class NoBackendRuns(Fact, frozen=True):
    """No backend opens it, as these cannot run it here; none = none is installed that would."""

    backends: tuple[BackendCannotRun, ...]


RuleRefusal = (
    TrainedForLess
    | LargeDownload
    | NeedsMemory
    | LayersDoNotFit
    | WholeModelOnly
    | FewBits
    | TooSlow
    | Dominated
    | ScoresLess
    | OtherQuantPreferred
    | OtherBackendPreferred
    | OtherFilePreferred
)
CatalogRefusal = (
    WrongKind | ShapeUnknown | NoFiles | Absence | SizeUnknown | AdapterMisfit | NoBackendOpens | NoBackendRuns
)


class EvenTheSmallest(Fact, frozen=True):
    """All files of a model failed; this is what the smallest failed on."""

    quant: str
    why: RuleRefusal | Stated


class RefusedByRule(Fact, frozen=True):
    """A plugin's rule refuses the file that was named; what it says."""

    rule: str
    why: RuleRefusal | Stated | Reason | None


Refusal = RuleRefusal | CatalogRefusal | EvenTheSmallest | RefusedByRule | BackendRefusal
