"""Why a backend and its GPUs compute, or do not, as data. See `edgellm.types.reason`."""

from __future__ import annotations

from typing import Literal

from edgellm.types.basis import Fact, RateKind


class Faster(Fact, frozen=True):
    """Two backends on the same kind of file."""

    tok_s: float
    other_tok_s: float
    basis: RateKind


class OwnKernels(Fact, frozen=True):
    """The same speed is predicted, and one backend has kernels made for these types."""


class FilesCompared(Fact, frozen=True):
    """Two kinds of file of one model."""

    tok_s: float
    other_tok_s: float
    tensor_bytes: int
    other_tensor_bytes: int
    kept: float
    other_kept: float


class BackendPreferred(Fact, frozen=True):
    """Why one backend and not another that runs the model, too."""

    backend: str
    other: str
    why: Faster | OwnKernels | FilesCompared
    other_quant: str = ""  # "" = the same


class BackendOpens(Fact, frozen=True):
    """The first backend that opens the file."""

    backend: str
    format: str


class BackendCannotRun(Fact, frozen=True):
    """A backend that was left out, and what it says."""

    backend: str
    problems: tuple[str, ...]


class BackendUnproven(Fact, frozen=True):
    """Nothing shows that the library of the backend is the one it was written for, though it runs."""

    backend: str
    why: str


class RatesSetAside(Fact, frozen=True):
    """Rates of a backend's kernels that predictions do not count with: other programs ran beside their measurement."""

    backend: str
    threads: int  # whose rates would count
    date: str
    taken: float | None = None  # share of the processors' time that other programs had; None = not known
    waited: float | None = None  # share of its time for which the measurement had no processor
    of_one: float | None = None  # what so many threads reached of the rates of one, where they were slower


class GpuLayers(Fact, frozen=True):
    """Layers on GPUs."""

    layers: int
    total: int
    devices: str
    cause: Literal["asked", "all_fit", "some_fit", "unified", "unified_asked"]
    needed_bytes: int | None = None  # by what is there; None where they share the machine's memory
    usable_bytes: int | None = None
    experts_away: int = 0  # of how many blocks the routed experts stay in RAM
    ubatch: int | None = None  # tokens of a prompt at once, where that is not the usual number


class GpuUnused(Fact, frozen=True):
    """GPUs that compute nothing."""

    devices: str
    vram_bytes: int
    cause: Literal[
        "asked", "cpu_backend", "missing", "slower", "unsuited", "unknown", "too_small", "unreachable", "unpublished"
    ]
    backend: str = ""
    missing: str = ""  # what the backend lacks, or why it predicts nothing, in its words
    remedy: str = ""
    tok_s: float | None = None  # of "slower": decoding on it
    cpu_tok_s: float | None = None


class GpuWouldGive(Fact, frozen=True):
    """What this machine would run with a build for its GPU, which is not here."""

    devices: str
    vram_bytes: int
    model: str
    quant: str
    tok_s: float
    low: float
    high: float
    instead_tok_s: float | None  # what the plan decodes at without it
    remedy: str


class BuildNeeded(Fact, frozen=True):
    """The plan is for another machine, and assumes a build for its GPU there."""

    devices: str
    api: str
    command: str


class ScratchAsked(Fact, frozen=True):
    """What the backend's library said, before a load, that it will reserve on GPUs to compute a batch."""

    backend: str
    reserved_bytes: int
    predicted_bytes: int


class ScratchNotTold(Fact, frozen=True):
    """The library could not be asked, so what it reserves on GPUs is as predicted."""

    backend: str
    why: str


class OptionsAsked(Fact, frozen=True):
    """Options of a backend that the request sets."""

    options: tuple[tuple[str, str], ...]


BackendReason = (
    BackendPreferred
    | BackendOpens
    | BackendCannotRun
    | BackendUnproven
    | RatesSetAside
    | OptionsAsked
    | ScratchAsked
    | ScratchNotTold
)
GpuReason = GpuLayers | GpuUnused | GpuWouldGive | BuildNeeded
