"""NVIDIA's boards whose GPU is a part of the processor: Jetson and DRIVE."""

from __future__ import annotations

from edgellm.hardware.linux import device_nodes
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.printable import clean
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator

_SOC = "/sys/devices/soc0"  # docker shows containers no device tree
_MEMORY_NODE = "/dev/nvmap"  # through which CUDA takes the shared memory


def is_tegra(tree: SysRoot) -> bool:
    compatible = tree.text("/proc/device-tree/compatible") or ""
    return "nvidia,tegra" in compatible or tree.line(f"{_SOC}/family") == "Tegra"


def read(tree: SysRoot, problems: list[GpuProblem]) -> Accelerator:
    """Which of its kind the Tegra is, only the board tells: `"NVIDIA Jetson AGX Orin Developer Kit"`."""
    model = tree.line("/proc/device-tree/model") or tree.line(f"{_SOC}/machine") or ""
    board = clean(model) or "NVIDIA Tegra"
    barred = device_nodes.problem(tree, _MEMORY_NODE, board) if tree.live else None
    if barred is not None:
        problems.append(barred)
    return Accelerator("cuda", board, unified=True, usable=barred is None)
