"""AMD's GPUs as the amdgpu driver and kfd describe them in sysfs."""

from __future__ import annotations

import re
from dataclasses import replace

from edgellm.hardware.linux import device_nodes
from edgellm.hardware.linux.drm import Card
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator
from edgellm.units import show_memory

_NODES = "/sys/class/kfd/kfd/topology/nodes"
_PAGE_BYTES = 4096


def read(tree: SysRoot, card: Card, problems: list[GpuProblem]) -> Accelerator:
    total, used = (_memory(tree, card, f"vram_{what}") for what in ("total", "used"))
    kind = "rocm" if tree.exists(_NODES) else "vulkan"
    gpu = Accelerator(kind, card.name, display=card.display, slot=card.slot)
    if kind == "rocm" and tree.live and (barred := device_nodes.problem(tree, "/dev/kfd", card.name)):
        problems.append(barred)
    if total is None:
        problems.append(
            GpuProblem("radeon", card.name)
            if card.driver == "radeon"
            else GpuProblem("memory_not_told", card.name, vendor="amd")
        )
        return gpu
    if _is_apu(tree, card):
        # Beside what firmware carves out, it may use as much of the RAM as the driver maps for it.
        gtt, gtt_used = (_memory(tree, card, f"gtt_{what}") for what in ("total", "used"))
        if gtt is None:
            return replace(gpu, unified=True)
        # Where the share was raised by a parameter of amdgpu, the kernel's own limit still holds.
        pages = tree.integer("/sys/module/ttm/parameters/pages_limit")
        total += min(gtt, pages * _PAGE_BYTES) if pages else gtt
        return replace(gpu, vram_bytes=total, free_bytes=_free(total, used, gtt_used), unified=True)
    visible = _memory(tree, card, "vis_vram_total")
    if visible is not None and visible < total // 2:
        problems.append(GpuProblem("small_bar", card.name, detail=show_memory(visible), vendor="amd"))
    return replace(gpu, vram_bytes=total, free_bytes=_free(total, used))


def _memory(tree: SysRoot, card: Card, what: str) -> int | None:
    return tree.integer(f"{card.device}/mem_info_{what}")


def _free(total: int, *parts: int | None) -> int | None:
    used = sum(part for part in parts if part is not None) if None not in parts else -1
    return total - used if 0 <= used <= total else None


def _is_apu(tree: SysRoot, card: Card) -> bool:
    """A part of the processor: its kfd node counts processor cores too, or (without kfd) it has at most 4 GiB.

    The second is a guess that only small cards could be wrong about: those have less VRAM than models need.
    """
    slot = re.fullmatch(r"[\da-f]+:([\da-f]+):([\da-f]+)\.[\da-f]+", card.slot)
    for node in tree.names(_NODES):
        fields = dict(re.findall(r"^(\w+) (\d{1,20})$", tree.text(f"{_NODES}/{node}/properties") or "", re.MULTILINE))
        # location_id is bus << 8 | device << 3 | function.
        if slot and int(fields.get("location_id", 0)) >> 3 == int(slot[1], 16) << 5 | int(slot[2], 16):
            return int(fields.get("cpu_cores_count", 0)) > 0
    vram, gtt = _memory(tree, card, "vram_total"), _memory(tree, card, "gtt_total")
    return vram is not None and gtt is not None and vram <= 4 * 1024**3 < gtt
