"""Accelerators of a Linux machine: NVIDIA by NVML, AMD and Intel by sysfs, Tegra by its device tree.

A missing library or device is a sentence in the notes, never an error. Apple's is in darwin.py.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from edgellm.hardware.linux.cpu import clean
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Accelerator

_DRM = "/sys/class/drm"
# Where Intel puts the graphics that is a part of the processor, on every platform since 2004.
_INTEL_INTEGRATED = "0000:00:02.0"


def read(tree: SysRoot) -> tuple[tuple[Accelerator, ...], list[str]]:
    notes: list[str] = []
    accelerators = [*_nvidia(tree, notes), *_drm_cards(tree, notes)]
    if not accelerators and not notes:
        notes.append("no GPU: no NVIDIA driver in /proc/driver/nvidia, no AMD or Intel card in /sys/class/drm")
    return tuple(accelerators), notes


def _nvidia(tree: SysRoot, notes: list[str]) -> list[Accelerator]:
    tegra = "nvidia,tegra" in (tree.text("/proc/device-tree/compatible") or "")
    listed = tree.names("/proc/driver/nvidia/gpus")
    # WSL has no /proc/driver/nvidia; its paravirtual device is /dev/dxg.
    driver = bool(listed) or any(tree.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg"))
    if tree.live and driver:
        if gpus := _nvml(notes):
            return gpus
    elif listed:
        notes.append(f"{len(listed)} NVIDIA GPUs in a recorded tree: their memory is not in /proc")
        return [Accelerator("cuda", _proc_name(tree, slot)) for slot in listed]
    elif tree.live and not tegra and _pci_vendor_present(tree, "0x10de"):
        notes.append("an NVIDIA GPU is present, but its driver is not loaded (no /proc/driver/nvidia)")
    return [Accelerator("cuda", "NVIDIA Tegra", unified=True)] if tegra else []


def _proc_name(tree: SysRoot, slot: str) -> str:
    text = tree.text(f"/proc/driver/nvidia/gpus/{slot}/information") or ""
    match = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
    return clean(match[1]) if match else "NVIDIA GPU"


def _pci_vendor_present(tree: SysRoot, vendor: str) -> bool:
    """Display controllers only (class 03): an NVIDIA sound or network function is no GPU."""
    pci = "/sys/bus/pci/devices"
    return any(
        tree.line(f"{pci}/{slot}/vendor") == vendor and (tree.line(f"{pci}/{slot}/class") or "").startswith("0x03")
        for slot in tree.names(pci)
    )


def _nvml(notes: list[str]) -> list[Accelerator]:
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
        return [_nvml_device(nvml, index, notes) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        notes.append(f"NVML failed while listing GPUs ({error})")
        return []
    finally:
        nvml.nvmlShutdown()


def _nvml_device(nvml: Any, index: int, notes: list[str]) -> Accelerator:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    name = clean(name.decode("utf-8", "replace") if isinstance(name, bytes) else name)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except nvml.NVMLError as error:
        # GB10 and Tegra share the machine's RAM and have no memory of their own to report.
        notes.append(f"{name}: NVML reports no memory of its own ({error}): taken as sharing the machine's RAM")
        return Accelerator("cuda", name, unified=True)
    return Accelerator("cuda", name, total, free, _nvml_bandwidth(nvml, handle))


def _nvml_bandwidth(nvml: Any, handle: Any) -> float | None:
    """Theoretical GB/s: memory clock x 2 (NVML gives the clock of a double-data-rate bus) x bus width."""
    try:
        mhz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        bits = nvml.nvmlDeviceGetMemoryBusWidth(handle)
    except nvml.NVMLError:
        return None
    return round(mhz * 1e6 * 2 * bits / 8 / 1e9, 1) or None


def _drm_cards(tree: SysRoot, notes: list[str]) -> list[Accelerator]:
    accelerators = []
    for card in tree.names(_DRM):
        if re.fullmatch(r"card\d+", card):
            vendor = tree.line(f"{_DRM}/{card}/device/vendor")
            probe = {"0x1002": _amd, "0x8086": _intel}.get(vendor or "")
            if probe is not None:
                accelerators.append(probe(tree, f"{_DRM}/{card}", notes))
    return accelerators


def _amd(tree: SysRoot, card: str, notes: list[str]) -> Accelerator:
    device = f"{card}/device"
    name = _drm_name(tree, device, "AMD")
    kind = "rocm" if tree.exists("/sys/class/kfd/kfd/topology/nodes") else "vulkan"
    total = tree.integer(f"{device}/mem_info_vram_total")
    used = tree.integer(f"{device}/mem_info_vram_used")
    if total is None:
        notes.append(f"{name}: memory unknown (no mem_info_vram_total: the amdgpu driver is not loaded)")
        return Accelerator(kind, name)
    if _is_apu(tree, device):
        return Accelerator(kind, name, unified=True)
    return Accelerator(kind, name, total, total - used if used is not None and 0 <= used <= total else None)


def _is_apu(tree: SysRoot, device: str) -> bool:
    """A part of the processor: its kfd node counts processor cores too, or (without kfd) it has at most 4 GiB.

    The second is a guess that only small cards could be wrong about: those have less VRAM than models need.
    """
    uevent = tree.text(f"{device}/uevent") or ""
    slot = re.search(r"^PCI_SLOT_NAME=([\da-f]+):([\da-f]+):([\da-f]+)\.", uevent, re.MULTILINE)
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    for node in tree.names(nodes):
        fields = dict(re.findall(r"^(\w+) (\d{1,20})$", tree.text(f"{nodes}/{node}/properties") or "", re.MULTILINE))
        # location_id is bus << 8 | device << 3 | function.
        if slot and int(fields.get("location_id", 0)) >> 3 == int(slot[2], 16) << 5 | int(slot[3], 16):
            return int(fields.get("cpu_cores_count", 0)) > 0
    vram, gtt = tree.integer(f"{device}/mem_info_vram_total"), tree.integer(f"{device}/mem_info_gtt_total")
    return vram is not None and gtt is not None and vram <= 4 * 1024**3 < gtt


def _intel(tree: SysRoot, card: str, notes: list[str]) -> Accelerator:
    device = f"{card}/device"
    name = _drm_name(tree, device, "Intel")
    if f"PCI_SLOT_NAME={_INTEL_INTEGRATED}" in (tree.text(f"{device}/uevent") or ""):
        return Accelerator("xe", name, unified=True)
    total = tree.integer(f"{card}/lmem_total_bytes") or tree.integer(f"{device}/tile0/physical_vram_size_bytes")
    free = tree.integer(f"{card}/lmem_avail_bytes")
    if total is None:
        total = _bar_bytes(tree.text(f"{device}/resource"))
        reason = "its size is taken from PCI BAR 2" if total else "no lmem_total_bytes, no PCI BAR 2"
        notes.append(f"{name}: the driver does not report local memory, {reason}")
    return Accelerator("xe", name, total, free)


def _bar_bytes(resource: str | None) -> int | None:
    """Size of BAR 2, where Intel's discrete cards show their memory: all of it with resizable BAR, else 256 MiB."""
    lines = (resource or "").splitlines()
    match = re.fullmatch(r"0x([\da-f]+) 0x([\da-f]+) 0x[\da-f]+", lines[2].strip()) if len(lines) > 2 else None
    size = int(match[2], 16) - int(match[1], 16) + 1 if match else 0
    return size if size > 256 * 1024**2 else None


def _drm_name(tree: SysRoot, device: str, vendor: str) -> str:
    product = tree.line(f"{device}/product_name")
    number = (tree.line(f"{device}/device") or "0x????").removeprefix("0x")
    return clean(product) if product else f"{vendor} GPU {number}"
