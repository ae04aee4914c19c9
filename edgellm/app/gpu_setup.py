"""Which backend builds its code for GPUs here, and the building."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.contract.device_build import BuiltDevices, DeviceBuild, DeviceBuilder, StepProgress
from edgellm.contract.manager import plugins
from edgellm.errors import BackendUnavailable
from edgellm.types.build_api import BuildApi


@dataclass(frozen=True, slots=True)
class Setup:
    """What would be built, and by whom."""

    backend: str
    build: DeviceBuild


def plan(api: BuildApi | None, architectures: tuple[str, ...]) -> Setup:
    """
    Args:
        api: None = what fits this machine's GPU.

    Raises:
        BackendUnavailable: no backend builds code for GPUs. UsageError: as `DeviceBuilder.plan_devices`.
    """
    from edgellm.hardware.probe import probe

    name, builder = _builder()
    return Setup(name, builder.plan_devices(probe(measure=False), api, architectures))


def build(setup: Setup, progress: StepProgress) -> BuiltDevices:
    """
    Raises:
        As `DeviceBuilder.build_devices`.
    """
    _, builder = _builder()
    return builder.build_devices(setup.build, progress)


def _builder() -> tuple[str, DeviceBuilder]:
    for name, backend in plugins().backends().items():
        if isinstance(backend, DeviceBuilder):
            return name, backend
    raise BackendUnavailable(
        "no installed backend builds code for GPUs", hint="`make setup`, or pip install edgellm-gguf"
    )
