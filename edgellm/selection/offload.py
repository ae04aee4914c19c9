"""Which devices a backend can put layers on, here and on another machine; and what is said where there are none."""

from __future__ import annotations

from dataclasses import replace

from edgellm.contract.backend import Device, Offload
from edgellm.errors import BackendUnavailable, option
from edgellm.types.backend_reason import GpuUnused
from edgellm.types.build_api import DEVICE_NAMES, WANTED, BuildApi, sees
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.request import ALL_LAYERS


def live(offload: Offload, machine: Machine) -> Offload:
    """The devices with what the machine knows of them now: free memory, and whether it is the machine's own.

    Those that no program of this user reaches are left out: a library may have been asked before that was so.
    """
    devices = []
    for device, index in zip(offload.devices, matches(offload, machine), strict=True):
        if index is None:
            devices.append(device)
            continue
        gpu = machine.accelerators[index]
        if not gpu.usable:
            continue
        free_bytes = gpu.free_bytes if gpu.free_bytes is not None else device.free_bytes
        total_bytes = gpu.vram_bytes or device.total_bytes
        devices.append(
            replace(device, total_bytes=total_bytes, free_bytes=free_bytes, unified=gpu.unified or device.unified)
        )
    if offload.devices and not devices:
        return replace(offload, devices=(), missing="no program of this user reaches its GPUs")
    return replace(offload, devices=tuple(devices))


def matches(offload: Offload, machine: Machine) -> list[int | None]:
    """Of each device, which of the machine's accelerators it is; None = none of them, by slot or by name."""
    remaining = dict(enumerate(machine.accelerators))
    alone = len(offload.devices) == len(machine.accelerators) == 1
    indexes: list[int | None] = [None] * len(offload.devices)
    for by_slot in (True, False):
        for at, device in enumerate(offload.devices):
            if indexes[at] is not None:
                continue
            index = next((i for i, gpu in remaining.items() if _same(device, gpu, by_slot, alone)), None)
            if index is not None:
                indexes[at] = index
                del remaining[index]
    return indexes


def _same(device: Device, gpu: Accelerator, by_slot: bool, alone: bool) -> bool:
    """By name where one has no slot. The library's may be a little longer: "AMD Radeon RX 7900 XTX (RADV NAVI31)"."""
    if device.slot and gpu.slot:
        return device.slot.lower() == gpu.slot.lower()
    if by_slot or alone:
        return not by_slot
    name, own = device.description.lower(), gpu.name.lower()
    return own in name or name in own


def assumed(machine: Machine, api: BuildApi | None = None) -> Offload:
    """What a build for `api` could use of the machine's accelerators, or for each what it would want: for planning
    without that build."""
    accelerators = [
        a
        for a in machine.accelerators
        if a.usable and (a.vram_bytes is not None or a.unified) and (api is None or sees(api, a.kind))
    ]
    devices = tuple(
        Device(
            f"{_device_name(a.kind, api)}{i}",
            a.name,
            a.vram_bytes or machine.memory.total_bytes,
            a.free_bytes,
            a.unified,
            a.slot,
        )
        for i, a in enumerate(accelerators)
    )
    missing = "" if devices else f"no GPU with known memory is in {machine.name}"
    return Offload(devices, missing)


def _device_name(kind: str, api: BuildApi | None) -> str:
    wanted = api or WANTED.get(kind)
    return DEVICE_NAMES[wanted] if wanted else kind


def require(backend: str, offload: Offload | None, asked: int | None) -> None:
    """A number of layers that was asked for is kept, or refused.

    Raises:
        BackendUnavailable: this backend, or its build here, puts no layers on a GPU.
    """
    if asked in (None, 0) or (offload is not None and offload.devices):
        return
    raise not_kept("gpu_layers", "all" if asked == ALL_LAYERS else asked, backend, offload)


def not_kept(
    name: str, value: str | int | None, backend: str, offload: Offload | None, variable: str = ""
) -> BackendUnavailable:
    """What is said where an option wants a GPU, or `variable` in its place, and there is none for this backend."""
    asked = f"{variable}={value}" if variable else option(name, value)
    why = f"{backend} puts no layers on a GPU" if offload is None else f"{backend}: {offload.missing}"
    remedy = "" if offload is None else offload.remedy
    leave_out = f"{f'unset {variable}' if variable else f'leave {option(name)} out'} to compute on the CPU"
    return BackendUnavailable(
        f"{asked} cannot be kept: {why}", hint=f"{remedy}, or {leave_out}" if remedy else leave_out
    )


def unused(machine: Machine, backend: str, offload: Offload | None, asked: int | None) -> GpuUnused | None:
    """Why the machine's GPUs compute nothing; None where there are none to speak of."""
    if not machine.accelerators:
        return None
    usable = [a for a in machine.accelerators if a.usable]
    memory = sum(a.vram_bytes or 0 for a in usable if not a.unified)
    names = ", ".join(a.name for a in usable or machine.accelerators)
    if asked == 0:
        return GpuUnused(names, memory, "asked")
    if not usable:
        return GpuUnused(names, memory, "unreachable")
    if offload is None:
        return GpuUnused(names, memory, "cpu_backend", backend)
    return GpuUnused(names, memory, "missing", backend, offload.missing, offload.remedy)
