"""Accelerators of a Linux machine: NVIDIA by NVML, AMD and Intel by sysfs, Tegra by its device tree.

A missing library or device is a sentence in the notes, never an error. Apple's is in darwin.py.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

from edgellm.hardware import gpu_table
from edgellm.hardware.linux import nvml
from edgellm.hardware.linux.cpu import clean
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Accelerator

_DRM = "/sys/class/drm"
_NUMBERED = re.compile(r"\w+ GPU [\da-f]{4}")  # as `_drm_name` calls what has no name of its own
# Where Intel puts the graphics that is a part of the processor, on every platform since 2004.
_INTEL_INTEGRATED = "0000:00:02.0"


def read(tree: SysRoot) -> tuple[tuple[Accelerator, ...], list[str]]:
    notes: list[str] = []
    cards = _drm_cards(tree, notes)
    accelerators = [*_nvidia(tree, notes), *cards]
    if cards and tree.live:
        notes += _closed(tree, any(card.kind == "rocm" for card in cards))
    if not accelerators and not notes:
        notes.append("no GPU: no NVIDIA driver in /proc/driver/nvidia, no AMD or Intel card in /sys/class/drm")
    return tuple(accelerators), notes


def _nvidia(tree: SysRoot, notes: list[str]) -> list[Accelerator]:
    tegra = "nvidia,tegra" in (tree.text("/proc/device-tree/compatible") or "")
    listed = tree.names("/proc/driver/nvidia/gpus")
    # WSL has no /proc/driver/nvidia; its paravirtual device is /dev/dxg.
    driver = bool(listed) or any(tree.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg"))
    if tree.live and driver:
        if gpus := nvml.read(notes):
            return gpus
    elif listed:
        notes.append(f"{len(listed)} NVIDIA GPUs in a recorded tree: their memory is not in /proc")
        return [Accelerator("cuda", _proc_name(tree, slot)) for slot in listed]
    elif tree.live and not tegra and _pci_vendor_present(tree, "0x10de"):
        notes.append("an NVIDIA GPU is present, but its driver is not loaded (no /proc/driver/nvidia)")
    return [Accelerator("cuda", _board(tree), unified=True)] if tegra else []


def _board(tree: SysRoot) -> str:
    """`"NVIDIA Jetson AGX Orin Developer Kit"`: which of its kind the Tegra is, only the board tells."""
    return clean(tree.line("/proc/device-tree/model") or "") or "NVIDIA Tegra"


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


def _closed(tree: SysRoot, rocm: bool) -> list[str]:
    """Why programs of this user cannot compute on cards that the kernel lists, as in containers."""
    nodes = [f"/dev/dri/{name}" for name in tree.names("/dev/dri") if name.startswith("renderD")]
    if not nodes:
        return ["no /dev/dri/renderD*: a container sees GPUs that it was not given (docker: --device /dev/dri)"]
    shut = [path for path in (*nodes, *(["/dev/kfd"] if rocm else [])) if not _opens(tree, path)]
    return [_shut(tree, path) for path in shut]


def _opens(tree: SysRoot, path: str) -> bool:
    real = tree.locate(path)
    return real is not None and os.access(real, os.R_OK | os.W_OK)


def _shut(tree: SysRoot, path: str) -> str:
    if not tree.exists(path):
        return f"no {path}: a container was not given it, and ROCm needs it (docker: --device {path})"
    group = os.stat(tree.locate(path) or path).st_gid
    return (
        f"{path} may not be opened by this user: it belongs to group {group} "
        f"(sudo usermod -aG {group} $USER; docker: --group-add {group})"
    )


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
        # Beside what firmware carves out, it may use as much of the RAM as the driver maps for it.
        gtt, gtt_used = (tree.integer(f"{device}/mem_info_gtt_{what}") for what in ("total", "used"))
        if gtt is None:
            return _known(Accelerator(kind, name, unified=True))
        return _known(Accelerator(kind, name, total + gtt, _free(total + gtt, used, gtt_used), unified=True))
    return _known(Accelerator(kind, name, total, _free(total, used)))


def _free(total: int, *used: int | None) -> int | None:
    taken = sum(part for part in used if part is not None) if None not in used else -1
    return total - taken if 0 <= taken <= total else None


def _known(gpu: Accelerator) -> Accelerator:
    """The same with the table's name and bandwidth, which sysfs has not, where its number is of one GPU only."""
    facts = gpu_table.find(gpu) if _NUMBERED.fullmatch(gpu.name) else None
    if facts is None or facts.known != "device":
        return gpu
    return replace(gpu, name=facts.name, bandwidth_gb_s=None if facts.unified else facts.bandwidth_gb_s)


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
        return _known(Accelerator("xe", name, unified=True))
    total = tree.integer(f"{card}/lmem_total_bytes") or tree.integer(f"{device}/tile0/physical_vram_size_bytes")
    free = tree.integer(f"{card}/lmem_avail_bytes")
    if total is None:
        total = _bar_bytes(tree.text(f"{device}/resource"))
        reason = "its size is taken from PCI BAR 2" if total else "no lmem_total_bytes, no PCI BAR 2"
        notes.append(f"{name}: the driver does not report local memory, {reason}")
    return _known(Accelerator("xe", name, total, free))


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
