"""NVIDIA's GPUs: what NVML tells of them, and why it tells nothing."""

from __future__ import annotations

import re
from dataclasses import replace

from edgellm.hardware import nvml, visible
from edgellm.hardware.linux import device_nodes, pci
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.printable import clean
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator

_PROC = "/proc/driver/nvidia"
_CONTROL = "/dev/nvidiactl"
# WSL has neither of these: Windows' driver stands behind this device, with its libraries in this folder.
_WSL_DEVICE, _WSL_LIBRARIES = "/dev/dxg", "/usr/lib/wsl/lib"
_OWN_LIBRARIES = ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib/aarch64-linux-gnu/libcuda.so.1")


def read(tree: SysRoot, problems: list[GpuProblem]) -> list[Accelerator]:
    listed = tree.names(f"{_PROC}/gpus")
    if not tree.live:
        if listed:
            problems.append(GpuProblem("not_recorded", vendor="nvidia"))
        return [Accelerator("cuda", _proc_name(tree, slot)) for slot in listed]
    wsl = "microsoft" in (tree.line("/proc/sys/kernel/osrelease") or "").lower() or tree.exists(_WSL_DEVICE)
    if wsl and not tree.exists(_WSL_DEVICE):
        problems.append(GpuProblem("wsl_no_device"))
        return []
    if not (wsl or listed or tree.exists(f"{_PROC}/version") or tree.exists(_CONTROL)):
        return []
    silence: list[GpuProblem] = []
    library = tree.locate(f"{_WSL_LIBRARIES}/{nvml.LIBRARY}") if wsl else None
    devices = nvml.read(silence, beside=[library] if library else [])
    if devices is not None:
        problems += silence + _own_driver(tree, wsl)
        return [named.gpu for named in visible.nvidia(devices, tree.variables, problems)]
    problems += [_cause(tree, problem, wsl) for problem in silence]
    present = [_proc_name(tree, slot) for slot in listed]
    names = present or [gpu.name for gpu in pci.controllers(tree) if gpu.vendor == "nvidia" and gpu.driver == "nvidia"]
    return [Accelerator("cuda", name, usable=False) for name in names]


def _cause(tree: SysRoot, silence: GpuProblem, wsl: bool) -> GpuProblem:
    """What lies behind the library's silence, as far as the device's files tell."""
    container = device_nodes.in_container(tree)
    if wsl:
        return replace(silence, kind="wsl_no_library") if silence.kind == "library_missing" else silence
    if silence.kind == "driver_mismatch":
        text = tree.text(f"{_PROC}/version") or ""
        match = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]{1,20})", text)
        # NVML's number is CUDA's major version and the driver's number.
        return replace(silence, driver=match[1] if match else "", library=silence.library.partition(".")[2])
    barred = device_nodes.problem(tree, _CONTROL, "")
    # Without a container the first program to ask makes the file, so its absence tells nothing.
    if barred is not None and (container or barred.kind == "node_closed") and silence.kind != "package_missing":
        return replace(barred, vendor="nvidia")
    return replace(silence, container=container, vendor="nvidia")


def _own_driver(tree: SysRoot, wsl: bool) -> list[GpuProblem]:
    """A driver for Linux, installed in WSL, whose CUDA stands before the one that works there."""
    if not wsl or device_nodes.in_container(tree) or not tree.exists(f"{_WSL_LIBRARIES}/libcuda.so.1"):
        return []
    return [GpuProblem("wsl_own_driver", path=path) for path in _OWN_LIBRARIES if tree.exists(path)]


def _proc_name(tree: SysRoot, slot: str) -> str:
    text = tree.text(f"{_PROC}/gpus/{slot}/information") or ""
    match = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
    return clean(match[1]) if match else "NVIDIA GPU"
