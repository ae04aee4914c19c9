"""NVIDIA's GPUs as their driver's library reports them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgellm.hardware.linux.cpu import clean
from edgellm.types.machine import Accelerator


def read(notes: list[str]) -> list[Accelerator]:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        notes.append("an NVIDIA driver is loaded, but the Python package nvidia-ml-py is missing: GPUs unknown")
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        notes.append(f"an NVIDIA driver is loaded, but NVML does not answer ({error}): GPUs unknown")
        return []
    try:
        return [gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _devices(nvml, index, notes)]
    except nvml.NVMLError as error:
        notes.append(f"NVML failed while listing GPUs ({error})")
        return []
    finally:
        nvml.nvmlShutdown()


def _devices(nvml: Any, index: int, notes: list[str]) -> list[Accelerator]:
    """The device, or the instances that it is divided into: then nothing runs on the whole of it."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    whole = _device(nvml, handle, notes)
    instances = [_device(nvml, instance, notes) for instance in _instances(nvml, handle)]
    return [_slice(part, whole) for part in instances] or [whole]


def _instances(nvml: Any, handle: Any) -> Iterator[Any]:
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:
        return  # most devices cannot be divided, and say so by an error
    for place in range(most):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:
            continue  # places without an instance


def _slice(part: Accelerator, whole: Accelerator) -> Accelerator:
    """An instance has memory controllers in proportion to its memory; NVML gives it the whole device's."""
    if not (part.vram_bytes and whole.vram_bytes and whole.bandwidth_gb_s):
        return replace(part, bandwidth_gb_s=None)
    return replace(part, bandwidth_gb_s=round(whole.bandwidth_gb_s * part.vram_bytes / whole.vram_bytes, 1))


def _device(nvml: Any, handle: Any, notes: list[str]) -> Accelerator:
    name = nvml.nvmlDeviceGetName(handle)
    name = clean(name.decode("utf-8", "replace") if isinstance(name, bytes) else name)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except nvml.NVMLError as error:
        # GB10 and Tegra share the machine's RAM and have no memory of their own to report.
        notes.append(f"{name}: NVML reports no memory of its own ({error}): taken as sharing the machine's RAM")
        return Accelerator("cuda", name, unified=True)
    return Accelerator("cuda", name, total, free, _bandwidth(nvml, handle))


def _bandwidth(nvml: Any, handle: Any) -> float | None:
    """Theoretical GB/s: memory clock x 2 (NVML gives the clock of a double-data-rate bus) x bus width."""
    try:
        mhz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        bits = nvml.nvmlDeviceGetMemoryBusWidth(handle)
    except nvml.NVMLError:
        return None
    return round(mhz * 1e6 * 2 * bits / 8 / 1e9, 1) or None
