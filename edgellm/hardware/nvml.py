"""NVIDIA's GPUs as their driver's library reports them."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgellm.hardware import gpu_table
from edgellm.hardware.printable import clean
from edgellm.types.gpu_problem import GpuProblem, GpuProblemKind
from edgellm.types.machine import Accelerator

LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """A GPU, or one that is divided into instances (MIG): then nothing runs on the whole of it."""

    uuid: str
    whole: Accelerator
    instances: tuple[tuple[str, Accelerator], ...] = ()  # with their UUIDs
    divided: bool = False


def read(problems: list[GpuProblem], *, beside: Sequence[str] = ()) -> list[NvmlDevice] | None:
    """The GPUs in the order of their slots; None where the library cannot be asked.

    `beside`: files to take the library from where they are, before the loader's own choice.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        problems.append(GpuProblem("package_missing"))
        return None
    for path in beside:
        with contextlib.suppress(OSError):
            ctypes.CDLL(path)  # which the loader then finds by its name
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        problems.append(_silent(nvml, error))
        return None
    try:
        return [device for index in range(nvml.nvmlDeviceGetCount()) for device in _device(nvml, index, problems)]
    except nvml.NVMLError as error:
        problems.append(_silent(nvml, error))
        return None
    finally:
        nvml.nvmlShutdown()


def busy() -> dict[str, float]:
    """Share of the last sample in which each GPU computed, by slot; empty where the library tells nothing."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no package, no library, no driver: told where GPUs are looked for
        return {}
    shares = {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # not told of a part of a divided GPU
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                shares[_slot(nvml, handle)] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError:
        return {}
    finally:
        nvml.nvmlShutdown()
    return shares


def _silent(nvml: Any, error: Any) -> GpuProblem:
    """Why the library gave no answer."""
    if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return GpuProblem("library_missing", path=LIBRARY)
    kinds: dict[int, GpuProblemKind] = {nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "driver_mismatch"}
    library = ""
    with contextlib.suppress(nvml.NVMLError):
        library = _text(nvml.nvmlSystemGetNVMLVersion)  # answers without the driver, too
    return GpuProblem(kinds.get(error.value, "driver_silent"), detail=clean(str(error)), library=library)


def _device(nvml: Any, index: int, problems: list[GpuProblem]) -> Iterator[NvmlDevice]:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name, uuid = _text(nvml.nvmlDeviceGetName, handle), _text(nvml.nvmlDeviceGetUUID, handle)
    except nvml.NVMLError as error:  # it fell off the bus, or waits to be reset; the others go on
        problems.append(GpuProblem("lost", f"NVIDIA GPU {index}", detail=clean(str(error)), vendor="nvidia"))
        return
    whole = _described(nvml, handle, name, problems)
    if not _is_divided(nvml, handle):
        yield NvmlDevice(uuid, whole)
        return
    parts = [
        (_text(nvml.nvmlDeviceGetUUID, part), _described(nvml, part, _text(nvml.nvmlDeviceGetName, part), problems))
        for part in _instances(nvml, handle)
    ]
    yield NvmlDevice(uuid, whole, tuple((name, _slice(part, whole)) for name, part in parts), divided=True)


def _is_divided(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError:
        return False  # most devices cannot be divided, and say so by an error


def _instances(nvml: Any, handle: Any) -> Iterator[Any]:
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:
            continue  # places without an instance


def _slice(part: Accelerator, whole: Accelerator) -> Accelerator:
    """An instance has memory controllers in proportion to its memory; NVML gives it the whole device's."""
    part = replace(part, bandwidth_gb_s=None, slot=whole.slot)
    if not (part.vram_bytes and whole.vram_bytes and whole.bandwidth_gb_s):
        return part
    return replace(part, bandwidth_gb_s=round(whole.bandwidth_gb_s * part.vram_bytes / whole.vram_bytes, 1))


def _described(nvml: Any, handle: Any, name: str, problems: list[GpuProblem]) -> Accelerator:
    gpu = Accelerator("cuda", name, display=_draws(nvml, handle), slot=_slot(nvml, handle))
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        # GB10 and Tegra share the machine's RAM and have no memory of their own to report.
        facts = gpu_table.find(gpu)
        if facts is not None and not facts.unified:
            problems.append(GpuProblem("memory_not_told", name, detail=clean(str(error)), vendor="nvidia"))
            return replace(gpu, bandwidth_gb_s=_bandwidth(nvml, handle))
        if facts is None:
            problems.append(GpuProblem("taken_as_shared", name, detail=clean(str(error)), vendor="nvidia"))
        return replace(gpu, unified=True)
    total, free = int(memory.total), int(memory.free)
    return replace(gpu, vram_bytes=total, free_bytes=free, bandwidth_gb_s=_bandwidth(nvml, handle))


def _draws(nvml: Any, handle: Any) -> bool | None:
    try:
        return bool(nvml.nvmlDeviceGetDisplayActive(handle))
    except nvml.NVMLError:
        return None


def _slot(nvml: Any, handle: Any) -> str:
    try:
        at = nvml.nvmlDeviceGetPciInfo(handle)
    except nvml.NVMLError:
        return ""
    return f"{at.domain:04x}:{at.bus:02x}:{at.device:02x}.0"


def _bandwidth(nvml: Any, handle: Any) -> float | None:
    """Theoretical GB/s: memory clock x 2 (NVML gives the clock of a double-data-rate bus) x bus width."""
    try:
        mhz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        bits = nvml.nvmlDeviceGetMemoryBusWidth(handle)
    except nvml.NVMLError:
        return None
    return round(mhz * 1e6 * 2 * bits / 8 / 1e9, 1) or None


def _text(ask: Callable[..., Any], *handle: Any) -> str:
    name = getattr(ask, "__wrapped__", ask)(*handle)  # what is wrapped around it fails where the text is no UTF-8
    return clean(name.decode("utf-8", "replace") if isinstance(name, bytes) else name)
