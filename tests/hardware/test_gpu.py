from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.hardware.linux import gpu
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Accelerator
from edgellm.units import GIB


def test_discrete_and_integrated_cards(machine_at: Callable[..., Path]) -> None:
    accelerators, notes = gpu.read(SysRoot(machine_at("graphics")))

    assert accelerators == (
        Accelerator("rocm", "AMD GPU 744c", 25753026560, 25753026560 - 1073741824),
        Accelerator("rocm", "AMD GPU 15bf", unified=True),
        Accelerator("xe", "Intel GPU e20b", 12 * GIB),
        Accelerator("xe", "Intel GPU 46a6", unified=True),
    )
    assert notes == ["Intel GPU e20b: the driver does not report local memory, its size is taken from PCI BAR 2"]


def test_garbage_is_a_card_of_unknown_memory(machine_at: Callable[..., Path]) -> None:
    accelerators, notes = gpu.read(SysRoot(machine_at("garbage")))

    assert [card.vram_bytes for card in accelerators] == [None, None]
    assert len(notes) == 2


def test_none_is_said(machine_at: Callable[..., Path]) -> None:
    accelerators, notes = gpu.read(SysRoot(machine_at("container-v1")))

    assert accelerators == ()
    assert notes == ["no GPU: no NVIDIA driver in /proc/driver/nvidia, no AMD or Intel card in /sys/class/drm"]


def test_tegra_shares_the_memory_of_its_board(machine_at: Callable[..., Path]) -> None:
    root = machine_at(None, **{"/proc/device-tree/compatible": "nvidia,p3768-0000\0nvidia,tegra234\0"})

    assert gpu.read(SysRoot(root))[0] == (Accelerator("cuda", "NVIDIA Tegra", unified=True),)


def test_a_gpu_whose_driver_is_not_loaded_is_a_reason(machine_at: Callable[..., Path]) -> None:
    device = "/sys/bus/pci/devices/0000:01:00.0"
    tree = SysRoot(machine_at(None, **{f"{device}/vendor": "0x10de\n", f"{device}/class": "0x030000\n"}))
    tree.live = True
    tree.locate = lambda path: str(tree.root / path.lstrip("/"))  # type: ignore[method-assign]

    assert gpu.read(tree)[1] == ["an NVIDIA GPU is present, but its driver is not loaded (no /proc/driver/nvidia)"]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_the_real_nvml_without_a_driver_is_a_reason() -> None:
    notes: list[str] = []

    assert gpu._nvml(notes) == []
    assert notes == [
        "an NVIDIA driver is loaded, but NVML does not answer (NVML Shared Library Not Found): GPUs unknown"
    ]


class FakeNvml(types.ModuleType):
    """Two devices as NVML 13 answers for them: a card, and a GB10 that has no memory of its own."""

    NVML_CLOCK_MEM = 2

    class NVMLError(Exception):
        pass

    shut_down = False

    def nvmlInit(self): ...

    def nvmlShutdown(self):
        self.shut_down = True

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return [b"NVIDIA H100 80GB HBM3", "NVIDIA GB10"][handle]

    def nvmlDeviceGetMemoryInfo(self, handle):
        if handle == 1:
            raise self.NVMLError("Not Supported")
        return types.SimpleNamespace(total=80 * GIB, free=79 * GIB)

    def nvmlDeviceGetMaxClockInfo(self, handle, clock):
        return 2619

    def nvmlDeviceGetMemoryBusWidth(self, handle):
        return 5120


def test_nvml_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    notes: list[str] = []

    assert gpu._nvml(notes) == [
        Accelerator("cuda", "NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, 3352.3),
        Accelerator("cuda", "NVIDIA GB10", unified=True),
    ]
    assert len(notes) == 1
    assert nvml.shut_down
