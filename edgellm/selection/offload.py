"""Which devices a backend can put layers on, here and on another machine; and what is said where there are none."""

from __future__ import annotations

from dataclasses import replace

from edgellm.contract.backend import Device, Offload
from edgellm.errors import BackendUnavailable, option
from edgellm.types.backend_reason import GpuUnused
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.request import ALL_LAYERS

# The library that a machine would want a build for, where its kind of GPU leaves a choice: Vulkan is as fast as HIP
# on most, and needs no toolkit of its own (research notes on GPUs, sections 1 and 4).
_WANTED = {"cuda": "CUDA", "metal": "MTL", "rocm": "Vulkan", "xe": "Vulkan", "vulkan": "Vulkan", "opencl": "Vulkan"}


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


def assumed(machine: Machine) -> Offload:
    """What a build for the machine's accelerators could use: for planning without that build."""
    accelerators = [a for a in machine.accelerators if a.usable and (a.vram_bytes is not None or a.unified)]
    devices = tuple(
        Device(
            f"{_WANTED.get(a.kind, a.kind)}{i}",
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


def require(backend: str, offload: Offload | None, asked: int | None) -> None:
    """A number of layers that was asked for is kept, or refused.

    Raises:
        BackendUnavailable: this backend, or its build here, puts no layers on a GPU.
    """
    if asked in (None, 0) or (offload is not None and offload.devices):
        return
    why = f"{backend} puts no layers on a GPU" if offload is None else f"{backend}: {offload.missing}"
    layers = "all" if asked == ALL_LAYERS else asked
    remedy = "" if offload is None else offload.remedy
    leave_out = f"leave {option('gpu_layers')} out to compute on the CPU"
    raise BackendUnavailable(
        f"{option('gpu_layers', layers)} cannot be kept: {why}",
        hint=f"{remedy}, or {leave_out}" if remedy else leave_out,
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
