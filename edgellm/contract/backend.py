"""The contract of a backend: what it runs, whether it can run here, and how a worker opens a model with it.

A `Backend` is light and lives in the parent; the `edgellm.contract.engine.Engine` that it opens lives in a worker.
Prove yours with `edgellm.testing.backend.BackendContract`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgellm.contract.answers import answer
from edgellm.errors import BackendUnavailable, UsageError
from edgellm.settings import variables
from edgellm.types.build_api import BuildApi  # `field_types` reads the annotations of `Offload`

if TYPE_CHECKING:  # `edgellm --help` needs no plan
    from edgellm.contract.engine import Engine
    from edgellm.types.calibration import Calibration
    from edgellm.types.device_trial import DeviceTrial
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact, ModelFacts
    from edgellm.types.plan import Footprint, LaunchPlan, Settings
    from edgellm.types.priors import Priors, Repacking


class Backend(Protocol):
    """What a plugin registers. Importing it must be cheap and touch no native code."""

    @property
    def name(self) -> str:
        """Public name, as in `--backend NAME`."""
        ...

    @property
    def formats(self) -> frozenset[str]:
        """Artifact formats it opens: "gguf", "safetensors", "onnx"."""
        ...

    @property
    def quants(self) -> frozenset[str] | None:
        """Quantization names it computes with; None = whatever the format holds."""
        ...

    def check(self, machine: Machine) -> list[str]:
        """Reasons it cannot run here; empty = it can. No heavy import, under 20 ms once probed."""
        ...

    def supports(self, artifact: Artifact) -> list[str]:
        """Reasons it cannot open this artifact; empty = it can. Reads headers only.

        Of a format that the core does not know, an artifact without paths asks whether it runs without a file.
        """
        ...

    def footprint(self, artifact: Artifact, settings: Settings) -> Footprint | None:
        """Bytes by a formula, without native code; None = the core's estimate stands."""
        ...

    def open(self, plan: LaunchPlan) -> Engine:
        """Load the model. Called in a worker only.

        Raises:
            BackendUnavailable, BadArtifact, UnsupportedArtifact.
        """
        ...

    def describe(self) -> dict[str, str]:
        """For `edgellm doctor`: version, library, kernels in use. No heavy import."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """What a backend's build computes on beside the CPU. The caller may know better how much memory is free."""

    name: str  # as the library calls it: "CUDA0"
    description: str  # "NVIDIA GeForce RTX 4090"
    total_bytes: int
    free_bytes: int | None = None  # None = not known now
    unified: bool = False  # shares the machine's RAM
    slot: str = ""  # on the PCI bus, as `Accelerator.slot`; "" = none, or not told


@dataclass(frozen=True, slots=True)
class Offload:
    """The devices that layers can be put on, in the order they are filled; without any, why and how to get them."""

    devices: tuple[Device, ...] = ()
    missing: str = ""  # "this libllama has no GPU backend"
    remedy: str = ""  # a command that fixes it on this machine, "" = there is nothing to fix
    builds: BuildApi | None = None  # what that command makes a build for; None = for whatever the machine has
    problems: tuple[str, ...] = ()  # why devices that this build is made for are not among them


@runtime_checkable
class Offloader(Protocol):
    """Optional: a backend that can put layers on a GPU (`Settings.gpu_layers`)."""

    def offload(self, machine: Machine) -> Offload:
        """Devices of this build on this machine. No heavy import, under 20 ms once probed."""
        ...


@runtime_checkable
class Reserver(Protocol):
    """Optional: a backend whose library tells what it would reserve on GPUs, before it does."""

    def scratch(self, artifact: Artifact, settings: Settings) -> Mapping[str, int]:
        """Device -> bytes of scratch for one batch. Reads no weights; native code in a process of its own only.

        Raises:
            BackendUnavailable: the library does not tell.
        """
        ...


@runtime_checkable
class Accelerated(Protocol):
    """Optional: a backend whose library may compute a whole model on one device; `Priors.providers` says how fast.

    A plan for it has all layers (`Settings.gpu_layers` = -1) and one of `Settings.devices`. Of other machines nothing
    is assumed: what is installed there, nobody knows.
    """

    def accelerators(self, machine: Machine) -> Offload | None:
        """Devices of this build on this machine; None = it is made for the CPU. As `Offloader.offload` in its cost."""
        ...


@runtime_checkable
class CacheQuantizer(Protocol):
    """Optional: a backend whose cache can be held in other types than f16 (`Settings.kv_type`)."""

    @property
    def kv_types(self) -> frozenset[str]:
        """Names as in `edgellm.types.request.KV_TYPES`. The default is f16, or the most exact where that is missing."""
        ...


@runtime_checkable
class Loader(Protocol):
    """Optional: a backend that knows which models its build can load, beyond their format and quantization."""

    def architectures(self, machine: Machine) -> frozenset[str] | None:
        """GGUF `general.architecture` of every model it loads; None = not known. Under 20 ms once probed."""
        ...

    def tensor_types(self, machine: Machine) -> frozenset[str] | None:
        """Types of the tensors it opens, as in GGUF tools ("Q4_K"); None = not known. Under 20 ms once probed."""
        ...


@runtime_checkable
class Repacker(Protocol):
    """Optional: a backend that copies some weights into another layout while it loads, beside the file's."""

    def repacking(self, machine: Machine, *, is_here: bool) -> Repacking:
        """What is copied on `machine`. No heavy import, under 20 ms once probed.

        Args:
            is_here: it is this machine, so this build answers; otherwise an ordinary build for its processor.
        """
        ...


@runtime_checkable
class Inspector(Protocol):
    """Optional: a backend that reads headers of its `formats`, where the core does not read them itself (ONNX)."""

    def inspect(self, path: str) -> ModelFacts:
        """What the model at `path`, a file or a folder, is. Reads headers only, without native code.

        Raises:
            UnknownModel: no model is there, or several and none is named.
            BadArtifact, UnsupportedArtifact.
        """
        ...


RECOGNIZED_BY = 4096  # bytes of a file that a `Recognizer` is shown


@runtime_checkable
class Recognizer(Protocol):
    """Optional: a backend that knows models in formats of its own where somebody names their path alone."""

    def recognizes(self, path: str, begin: bytes) -> str:
        """Which of its `formats` lies at `path`; "" = none. Asked of what the core does not know, in the parent.

        Args:
            begin: the first RECOGNIZED_BY bytes of the file; none of a folder.
        """
        ...


@runtime_checkable
class HasPriors(Protocol):
    """Optional: a backend with kernels of its own, or whose files follow an exporter's rule."""

    def priors(self) -> Priors:
        """Pure data, the same object at every call. No heavy import."""
        ...


def priors_of(backend: object) -> Priors:
    """What `backend` states of its kernels and files; nothing where it has no `priors`."""
    from edgellm.types.priors import NO_PRIORS

    if not isinstance(backend, HasPriors):
        return NO_PRIORS
    priors: Priors = answer(backend, "priors")
    return priors


@dataclass(frozen=True, slots=True)
class Advice:
    """Why a backend does not run, or not as fast as it could, and a command that fixes it."""

    text: str
    fix: str


@runtime_checkable
class Adviser(Protocol):
    """Optional: a backend that knows what holds it back here, for `edgellm doctor`."""

    def advise(self, machine: Machine) -> list[Advice]:
        """Empty = nothing. No heavy import, under 20 ms once probed."""
        ...


@runtime_checkable
class Provable(Protocol):
    """Optional: a backend whose native library may be another than the one it was written for."""

    def unproven(self, machine: Machine) -> str:
        """Why nothing shows that it is the right one, though it runs; "" = something does. As `check` in its cost."""
        ...


@runtime_checkable
class Configurable(Protocol):
    """Optional: a backend with settings of its own, `Settings.options`."""

    def check_options(self, options: Sequence[tuple[str, str]]) -> None:
        """Refuse what it does not have. No heavy import.

        Raises:
            UsageError: an unknown name or value; the hint lists the known ones.
        """
        ...


def check_choices(
    backend: str, chosen: Mapping[str, str], known: Mapping[str, str], values: Mapping[str, Sequence[str]]
) -> None:
    """For `Configurable`: refuse a name that is not in `known`, or a value that is not among the name's `values`.

    Args:
        known: name -> what it is for, for people.
        values: of the names that do not take any value.

    Raises:
        UsageError: see `Configurable.check_options`.
    """
    for name, value in chosen.items():
        if name not in known:
            raise UsageError(f"the {backend} backend has no option {name!r}", hint=f"it has {', '.join(known)}")
        if value not in values.get(name, (value,)):
            raise UsageError(f"{name}={value} means nothing", hint=f"{name}: {known[name]}")


@runtime_checkable
class WorkerEnv(Protocol):
    """Optional: a backend whose libraries read environment variables before any code of its own runs."""

    @property
    def worker_environment(self) -> Mapping[str, str]:
        """Variables of the worker process. One that the user has set stays as it is."""
        ...


@contextlib.contextmanager
def loading_library(name: str, *also: type[Exception]) -> Iterator[None]:
    """Around the import of a backend's library, in a worker: turns what it raises into `BackendUnavailable`.

    Args:
        name: what the error calls the library.
        also: what the import may raise beside `ImportError` and `OSError`.
    """
    failures: tuple[type[Exception], ...] = (ImportError, OSError, *also)
    try:
        yield
    except failures as error:
        raise BackendUnavailable(
            f"{name} does not load: {error}", hint="run `edgellm doctor` for what is missing"
        ) from error


def worker_environment(backend: object) -> dict[str, str]:
    """What a process that runs `backend` starts with."""
    own = dict(answer(backend, "worker_environment")) if isinstance(backend, WorkerEnv) else {}
    return own | variables()


@runtime_checkable
class Calibrator(Protocol):
    """Optional: a backend that can measure how fast its kernels run here."""

    def build(self) -> str:
        """What rates hold for: version and digest of the kernels. In the parent, no native code, under 20 ms."""
        ...

    def calibrate(self, settings: Settings) -> Calibration:
        """Rates at one thread and at the settings' numbers of threads, in some ten seconds. In a worker only."""
        ...


@runtime_checkable
class DeviceCalibrator(Protocol):
    """Optional: a backend that can measure how fast a GPU runs its kernels."""

    def calibrate_device(self, device: str) -> tuple[DeviceTrial, ...]:
        """Models of several types, whole on the device that `offload` calls so, in some ten seconds. In a worker only.

        Raises:
            BackendUnavailable: it does not compute there.
        """
        ...
