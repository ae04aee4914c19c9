"""Accelerators of a Linux machine: NVIDIA by NVML, AMD and Intel by sysfs, Tegra by its device tree.

What keeps one from being used or known is a `GpuProblem`, never an error. Apple's is in darwin.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from edgellm.hardware import gpu_table, visible
from edgellm.hardware.linux import amd_gpu, device_nodes, drm, intel_gpu, nvidia, pci, tegra
from edgellm.hardware.linux.drm import Card
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.visible import Named
from edgellm.types.gpu_problem import GpuProblem, GpuProblemKind
from edgellm.types.machine import Accelerator

_NUMBERED = re.compile(r"\w+ GPU [\da-f]{4}")  # as `pci.numbered` calls what has no name of its own
_UNSERVED: dict[str | None, GpuProblemKind] = {"": "no_driver", "nouveau": "nouveau", "vfio-pci": "reserved"}
_READERS = {"amd": amd_gpu.read, "intel": intel_gpu.read}
_ROCM = "/opt/rocm"
_VULKAN_FOLDERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
_VULKAN_NAMES = {"amd": ("radeon", "amd"), "intel": ("intel",)}
_VULKAN_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")


def read(tree: SysRoot) -> tuple[tuple[Accelerator, ...], list[GpuProblem]]:
    problems: list[GpuProblem] = []
    # On a Tegra NVML knows less than the board, where it answers at all.
    nvidias = [tegra.read(tree, problems)] if tegra.is_tegra(tree) else nvidia.read(tree, problems)
    cards = _shown(tree, [(card, _card(tree, card, problems)) for card in drm.cards(tree)], problems)
    visible.vulkan([gpu for gpu in cards if gpu.kind in ("vulkan", "xe")], tree.variables, problems)
    unserved = list(_unserved(tree, problems))
    if not (nvidias or cards or unserved or problems):
        problems.append(GpuProblem("none", container=device_nodes.in_container(tree)))
    gpus = (*nvidias, *cards, *unserved)
    names = {gpu.name: _known(gpu).name for gpu in gpus}
    return tuple(map(_known, gpus)), [
        replace(problem, device=names.get(problem.device, problem.device)) for problem in problems
    ]


def _card(tree: SysRoot, card: Card, problems: list[GpuProblem]) -> Accelerator | None:
    reader = _READERS.get(card.vendor)
    if reader is None:
        return None  # NVIDIA's own driver lists its cards here, too
    gpu = reader(tree, card, problems)
    barred = drm.barred(tree, card) if tree.live else None
    if barred is not None:
        problems.append(barred)
        return replace(gpu, usable=False)
    # The stock kernel has what ROCm asks, so only ROCm itself shows that this machine needs no Vulkan.
    has_rocm = gpu.kind == "rocm" and tree.exists(_ROCM)
    if tree.live and not has_rocm and not _has_vulkan_driver(tree, card.vendor):
        problems.append(GpuProblem("no_vulkan_driver", card.name, vendor=card.vendor))
    return gpu


def _has_vulkan_driver(tree: SysRoot, vendor: str) -> bool:
    """By the lists that the Vulkan loader reads, or by the variables that take their place."""
    named = [tree.variables[name] for name in _VULKAN_VARIABLES if name in tree.variables]
    files = ":".join(named).split(":") if named else [name for folder in _VULKAN_FOLDERS for name in tree.names(folder)]
    return any(file.rpartition("/")[2].startswith(_VULKAN_NAMES[vendor]) for file in files)


def _shown(
    tree: SysRoot, cards: Iterable[tuple[Card, Accelerator | None]], problems: list[GpuProblem]
) -> list[Accelerator]:
    """Without what ROCm's variables hide."""
    read_ones = [(card, gpu) for card, gpu in cards if gpu is not None]
    # ROCr's name of a GPU: "GPU-" and the number that its driver gives.
    named = [
        Named(gpu, (f"GPU-{tree.line(f'{card.device}/unique_id') or '?'}",))
        for card, gpu in read_ones
        if gpu.kind == "rocm"
    ]
    left = visible.rocm(named, tree.variables, problems) if named else []
    return [device.gpu for device in left] + [gpu for _, gpu in read_ones if gpu.kind != "rocm"]


def _unserved(tree: SysRoot, problems: list[GpuProblem]) -> Iterable[Accelerator]:
    """On the bus, and with no driver that programs can compute through."""
    barred = "nomodeset" in (tree.text("/proc/cmdline") or "").split()
    kinds = {"nvidia": "cuda", "amd": "vulkan", "intel": "xe"}
    for gpu in pci.controllers(tree):
        kind = _UNSERVED.get(gpu.driver) if gpu.driver is not None else None
        if kind is not None:
            if kind == "no_driver" and barred and gpu.vendor != "nvidia":
                kind = "no_modeset"
            problems.append(GpuProblem(kind, gpu.name, driver=gpu.driver or "", vendor=gpu.vendor))
            unified = gpu.slot == intel_gpu.INTEGRATED
            yield Accelerator(kinds[gpu.vendor], gpu.name, unified=unified, usable=False, slot=gpu.slot)


def _known(gpu: Accelerator) -> Accelerator:
    """The same with the table's name and bandwidth, which sysfs has not, where its number is of one GPU only."""
    facts = gpu_table.find(gpu) if _NUMBERED.fullmatch(gpu.name) else None
    if facts is None or facts.known != "device":
        return gpu
    return replace(gpu, name=facts.name, bandwidth_gb_s=None if facts.unified else facts.bandwidth_gb_s)
