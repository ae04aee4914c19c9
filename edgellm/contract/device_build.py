"""Contract: what builds a backend's code for GPUs on this machine (`edgellm gpu setup`). Optional for a backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgellm.contract.backend import Device

if TYPE_CHECKING:
    from edgellm.types.build_api import BuildApi
    from edgellm.types.machine import Machine

StepProgress = Callable[[int, int, str], None]  # steps done, steps in all, what is being done


@dataclass(frozen=True, slots=True)
class DeviceBuild:
    """What would be built, and what is missing for it. Nothing was changed to find out."""

    api: BuildApi
    architectures: tuple[str, ...]  # that were asked for; empty = those of this machine's GPUs
    source: str  # "llama.cpp 0.5.0-dev (0c1e57098)"
    configure: tuple[str, ...]  # the command that prepares the build
    missing: tuple[str, ...] = ()  # in words, each one thing
    get: tuple[str, ...] = ()  # commands that get what is missing
    notes: tuple[str, ...] = ()  # what is worth knowing before: untried, what is fetched
    disk_bytes: int = 0  # while it builds
    former: str = ""  # when the backend that it replaces was built; "" = there is none


@dataclass(frozen=True, slots=True)
class BuiltDevices:
    """A backend for GPUs that was built, loaded once, and is used from now on."""

    path: str
    n_bytes: int
    seconds: float
    devices: tuple[Device, ...]
    problem: str = ""  # why it sees no device, in the driver's words where it has any


@runtime_checkable
class DeviceBuilder(Protocol):
    """A backend that can build its code for GPUs."""

    def plan_devices(self, machine: Machine, api: BuildApi | None, architectures: tuple[str, ...]) -> DeviceBuild:
        """Look at what is there. No network.

        Args:
            api: None = what fits the machine's GPU.
            architectures: of GPUs to compile for, as the compiler names them; empty = those of this machine.

        Raises:
            UsageError: it is not for this system, or nothing says which to take.
        """
        ...

    def build_devices(self, build: DeviceBuild, progress: StepProgress) -> BuiltDevices:
        """Fetch, compile, try in a process of its own, and put it where it is used. In any process, for minutes.

        A failure, or an interrupt, leaves what was built before as it is; the next try goes on from there.

        Raises:
            BackendUnavailable: something is missing; the compiler fails; what it made does not load.
            SourceError: the sources cannot be fetched. DiskFull. UsageError: another set-up is at work.
        """
        ...
