"""How many layers of a model go to a GPU, and what that leaves in RAM.

Layers are counted as llama.cpp does (`load_tensors` in src/llama-model.cpp, b11434): from the end, the output table
first, then the last block; the embedding table stays in RAM, and where it is the output table too, the GPU has a copy.
The cache of a block lies with its weights. Each device takes scratch of its own for one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Literal

from msgspec import Struct

from edgellm.contract.backend import Device, Offload
from edgellm.errors import BackendUnavailable, option
from edgellm.estimate.footprint import COMPUTE_TOUCHED_BYTES
from edgellm.estimate.layer_bytes import Layers, layers_of
from edgellm.types.backend_reason import GpuLayers, GpuUnused
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.model import Shape
from edgellm.types.plan import Footprint
from edgellm.types.refusal import LayersDoNotFit

MIN_RESERVE_BYTES = 512 * 1024**2
ALL = -1


class Placement(Struct, frozen=True):
    """Layers on GPUs (as in `Settings.gpu_layers`), the memory that the plan takes then, and why."""

    gpu_layers: int
    footprint: Footprint
    reason: GpuLayers | None = None
    problem: LayersDoNotFit | None = None  # layers that were asked for


def live(offload: Offload, machine: Machine) -> Offload:
    """The devices with what the machine knows of them now: free memory, and whether it is the machine's own."""
    remaining = list(machine.accelerators)
    devices = []
    for device in offload.devices:
        gpu = _same(device, remaining, alone=len(offload.devices) == len(machine.accelerators) == 1)
        if gpu is None:
            devices.append(device)
            continue
        remaining.remove(gpu)
        free_bytes = gpu.free_bytes if gpu.free_bytes is not None else device.free_bytes
        total_bytes = gpu.vram_bytes or device.total_bytes
        devices.append(
            replace(device, total_bytes=total_bytes, free_bytes=free_bytes, unified=gpu.unified or device.unified)
        )
    return replace(offload, devices=tuple(devices))


def _same(device: Device, accelerators: Iterable[Accelerator], *, alone: bool) -> Accelerator | None:
    """The accelerator that the library lists under a slightly other name: "AMD Radeon RX 7900 XTX (RADV NAVI31)"."""
    name = device.description.lower()
    return next((a for a in accelerators if alone or a.name.lower() in name or name in a.name.lower()), None)


def assumed(machine: Machine) -> Offload:
    """What a build for the machine's accelerators could use: for planning without that build."""
    accelerators = [a for a in machine.accelerators if a.vram_bytes is not None or a.unified]
    devices = tuple(
        Device(f"{a.kind}{i}", a.name, a.vram_bytes or machine.memory.total_bytes, a.free_bytes, a.unified)
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
    layers = "all" if asked == ALL else asked
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
    memory = sum(a.vram_bytes or 0 for a in machine.accelerators if not a.unified)
    names = ", ".join(a.name for a in machine.accelerators)
    if asked == 0:
        return GpuUnused(names, memory, "asked")
    if offload is None:
        return GpuUnused(names, memory, "cpu_backend", backend)
    return GpuUnused(names, memory, "missing", backend, offload.missing, offload.remedy)


def place(  # noqa: PLR0917
    footprint: Footprint,
    shape: Shape,
    tensor_bytes: int,
    quant: str,
    offload: Offload | None,
    asked: int | None = None,
) -> Placement:
    """Where the layers of a model go that takes `footprint` without a GPU. `quant` "" = not known.

    Unasked, all of them where they fit the free memory less a reserve, else as many as do.
    """
    if offload is None or not offload.devices or asked == 0:
        return Placement(0, footprint)
    devices, total = offload.devices, shape.n_layer + 1
    names = ", ".join(d.description for d in devices)
    if all(d.unified for d in devices):
        # Its memory is the machine's, and was counted as such.
        return _unified(footprint, total, names, asked)
    rooms = [_room(d) - footprint.compute_bytes for d in devices]
    kv_per_layer = footprint.kv_bytes // max(1, shape.n_layer)
    sizes = layers_of(shape, tensor_bytes, quant)
    # From the end, as they are put there.
    costs = [sizes.output, *(weights + kv_per_layer for weights in reversed(sizes.blocks))]
    fitting = _fitting(costs, rooms)
    count = min(fitting if asked is None else total if asked == ALL else asked, total)
    scratch_bytes, usable_bytes = footprint.compute_bytes * len(devices), sum(map(_room, devices))
    problem = None
    if fitting < count:
        problem = LayersDoNotFit(count, total, sum(costs[:count]) + scratch_bytes, usable_bytes, names, fitting)
    if asked is not None:
        reason = GpuLayers(count, total, names, "asked")
    else:
        cause: Literal["all_fit", "some_fit"] = "all_fit" if count == total else "some_fit"
        reason = GpuLayers(count, total, names, cause, sum(costs) + scratch_bytes, usable_bytes)
    if count == 0:
        return Placement(0, footprint, reason)
    left = _split(footprint, sizes, kv_per_layer, count, len(devices))
    return Placement(ALL if count == total else count, left, reason, problem)


def _unified(footprint: Footprint, total: int, names: str, asked: int | None) -> Placement:
    count = total if asked in (None, ALL) else min(asked or 0, total)
    reason = GpuLayers(count, total, names, "unified" if asked is None else "unified_asked")
    return Placement(ALL if count == total else count, footprint, reason)


def _split(footprint: Footprint, sizes: Layers, kv_per_layer: int, count: int, n_devices: int) -> Footprint:
    """What stays in RAM and what is on the GPU with `count` layers there."""
    blocks = sum(sizes.blocks[len(sizes.blocks) - (count - 1) :])
    kv_bytes = kv_per_layer * (count - 1) if count <= len(sizes.blocks) else footprint.kv_bytes
    # With every layer away the CPU computes embeddings only; with some, its scratch is as large as before.
    compute_bytes, resident_bytes = footprint.compute_bytes, footprint.compute_resident_bytes
    if count > len(sizes.blocks):
        compute_bytes = min(compute_bytes, COMPUTE_TOUCHED_BYTES)
    resident_bytes = compute_bytes if resident_bytes is None else min(compute_bytes, resident_bytes)
    weights_bytes = max(0, footprint.weights_bytes - blocks - (0 if sizes.tied else sizes.output))
    kept = weights_bytes / max(1, footprint.weights_bytes)
    return replace(
        footprint,
        weights_bytes=weights_bytes,
        repack_bytes=round(footprint.repack_bytes * kept),
        reclaimable_bytes=round(footprint.reclaimable_bytes * kept),
        kv_bytes=footprint.kv_bytes - kv_bytes,
        compute_bytes=compute_bytes,
        compute_resident_bytes=resident_bytes,
        device_bytes=blocks + sizes.output + kv_bytes + footprint.compute_bytes * n_devices,
    )


def _fitting(costs: Sequence[int], rooms: Sequence[int]) -> int:
    """How many of the layers fit, device after device, no layer on two."""
    at = 0
    for room in rooms:
        at += sum(1 for used in accumulate(costs[at:]) if used <= room)
    return at


def _room(device: Device) -> int:
    """Bytes that may be used: what is free, less a reserve for the driver, its context, and whoever draws a screen.

    Of the same form as `Machine.memory_budget_bytes`: max(10 %, 512 MiB), at most a quarter.
    """
    free = device.total_bytes if device.free_bytes is None else device.free_bytes
    reserve = min(max(device.total_bytes // 10, MIN_RESERVE_BYTES), device.total_bytes // 4)
    return max(0, free - reserve)
