"""Which GPUs the variables leave that hide devices from programs, read as CUDA, HIP and ggml read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgellm.hardware import gpu_table
from edgellm.hardware.nvml import NvmlDevice
from edgellm.hardware.printable import clean
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator

CUDA, CUDA_ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
HIP, ROCR = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
VULKAN = "GGML_VK_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Named:
    """A GPU under the names that a variable may give it: its place among its kind, and `uuids`."""

    gpu: Accelerator
    uuids: tuple[str, ...] = ()


def nvidia(devices: Sequence[NvmlDevice], variables: Mapping[str, str], problems: list[GpuProblem]) -> list[Named]:
    """What a CUDA program is shown: of the instances of divided GPUs one, the named or else the first."""
    asked = [name.strip() for name in variables.get(CUDA, "").split(",")]
    named, parts = [], dict[str, Accelerator]()
    for device in devices:
        if not device.divided:
            named.append(Named(device.whole, (device.uuid,)))
            continue
        if not device.instances:
            problems.append(GpuProblem("mig_empty", device.whole.name))
            continue
        wanted = (uuid for uuid, _ in device.instances if any(name and uuid.startswith(name) for name in asked))
        uuid = next(wanted, device.instances[0][0])
        parts |= device.instances
        named.append(Named(parts[uuid], (device.uuid, uuid)))
    shown = cuda(named, variables, problems)
    divided = [part for part in shown if parts.keys() & set(part.uuids)]
    left = [part for part in shown if part not in divided[1:]]
    kept = {uuid for part in divided[:1] for uuid in part.uuids}
    if divided:
        problems += [GpuProblem("mig_one", gpu.name) for uuid, gpu in parts.items() if uuid not in kept]
    return left


def cuda(devices: Sequence[Named], variables: Mapping[str, str], problems: list[GpuProblem]) -> list[Named]:
    """What CUDA shows a program, in its order. `devices` are in the order of their slots."""
    value = variables.get(CUDA)
    if value is None:
        return list(devices)
    numbered = list(devices)
    if variables.get(CUDA_ORDER) != "PCI_BUS_ID" and len({device.gpu.name for device in devices}) > 1:
        # CUDA puts the fastest first, by a rule of its own, and the rest as they come.
        numbered.sort(key=_speed, reverse=True)
        numbered[1:] = [device for device in devices if device is not numbered[0]]
        if re.search(r"(^|,)\s*\d", value):
            problems.append(GpuProblem("order_guessed", path=CUDA, detail=clean(value)))
    return _chosen(numbered, CUDA, value, problems)


def rocm(devices: Sequence[Named], variables: Mapping[str, str], problems: list[GpuProblem]) -> list[Named]:
    """What HIP shows: of those that ROCr leaves, where both variables are set. Without its own, HIP obeys CUDA's."""
    left = list(devices)
    for name in (ROCR, HIP if HIP in variables else CUDA):
        if name in variables:
            left = _chosen(left, name, variables[name], problems)
    return left


def vulkan(gpus: Sequence[Accelerator], variables: Mapping[str, str], problems: list[GpuProblem]) -> None:
    """ggml counts as the Vulkan loader does, software and all, in an order that only the loader knows."""
    value = variables.get(VULKAN)
    numbers = {part for part in re.split(r"[,\s]+", value or "") if part.isdecimal()}
    if value is not None and len(numbers) < len(gpus):
        problems.append(GpuProblem("numbers_of_vulkan", path=VULKAN, detail=clean(value)))


def _speed(device: Named) -> float:
    facts = gpu_table.find(device.gpu)
    return facts.fp32_tflops if facts is not None else 0.0


def _chosen(devices: Sequence[Named], variable: str, value: str, problems: list[GpuProblem]) -> list[Named]:
    """Those that the value names, up to the first name that is none, as all three libraries read it."""
    places: list[int] = []
    for name in map(str.strip, value.split(",")):
        place = _place(devices, name)
        if place is None or place in places:
            break
        places.append(place)
    hidden = (device for place, device in enumerate(devices) if place not in places)
    problems += [GpuProblem("hidden", device.gpu.name, variable, clean(value)) for device in hidden]
    return [devices[place] for place in places]


def _place(devices: Sequence[Named], name: str) -> int | None:
    if re.fullmatch(r"\d{1,6}", name):
        return int(name) if int(name) < len(devices) else None
    matching = [
        place for place, device in enumerate(devices) if name and any(uuid.startswith(name) for uuid in device.uuids)
    ]
    return matching[0] if len(matching) == 1 else None
