"""Intel's GPUs as the i915 and xe drivers describe them: in sysfs, and where that is silent, when they are asked."""

from __future__ import annotations

import os
import re
from dataclasses import replace

from edgellm.hardware.linux import drm, drm_query, memory
from edgellm.hardware.linux.drm import Card
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator
from edgellm.units import GIB

# Where Intel puts the graphics that is a part of the processor, on every platform since 2004.
INTEGRATED = "0000:00:02.0"


def read(tree: SysRoot, card: Card, problems: list[GpuProblem]) -> Accelerator:
    gpu = Accelerator("xe", card.name, display=card.display, slot=card.slot)
    if card.slot == INTEGRATED:
        ram_bytes = memory.parse_meminfo(tree.text("/proc/meminfo")).get("MemTotal")
        return replace(gpu, vram_bytes=ram_bytes and shared_bytes(ram_bytes), unified=True)
    total, free = tree.integer(f"{card.path}/lmem_total_bytes"), tree.integer(f"{card.path}/lmem_avail_bytes")
    if total is None:
        total = _of_tiles(tree, card.device)
    # Asking wakes a GPU that sleeps, and what is free it tells root only.
    if tree.live and (total is None or (free is None and os.geteuid() == 0)):
        told = next(filter(None, (drm_query.memory(node, card.driver) for node in drm.render_nodes(tree, card))), None)
        total, free = told or (total, free)
    if total is None:
        total = _bar_bytes(tree.text(f"{card.device}/resource"))
        problems.append(GpuProblem("memory_from_bar" if total else "memory_not_told", card.name, vendor="intel"))
    elif free is None:
        problems.append(GpuProblem("free_not_told", card.name, driver=card.driver, vendor="intel"))
    return replace(gpu, vram_bytes=total, free_bytes=free)


def shared_bytes(ram_bytes: int) -> int:
    """What Mesa's driver gives an integrated GPU of the machine's memory: half of up to 4 GiB, else three quarters.

    Source: anv_compute_sys_heap_size in src/intel/vulkan of Mesa.
    """
    return ram_bytes // 2 if ram_bytes <= 4 * GIB else ram_bytes * 3 // 4


def _of_tiles(tree: SysRoot, device: str) -> int | None:
    """As xe states it for each of the chip's tiles."""
    tiles = [tile for tile in tree.names(device) if re.fullmatch(r"tile\d+", tile)]
    sizes = [tree.integer(f"{device}/{tile}/physical_vram_size_bytes") for tile in tiles]
    return sum(size for size in sizes if size) or None


def _bar_bytes(resource: str | None) -> int | None:
    """Size of BAR 2, where Intel's discrete cards show their memory: all of it with resizable BAR, else 256 MiB."""
    lines = (resource or "").splitlines()
    match = re.fullmatch(r"0x([\da-f]+) 0x([\da-f]+) 0x[\da-f]+", lines[2].strip()) if len(lines) > 2 else None
    size = int(match[2], 16) - int(match[1], 16) + 1 if match else 0
    return size if size > 256 * 1024**2 else None
