from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.hardware import gpu_table
from edgellm.hardware.linux import gpu, nvml
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Accelerator
from edgellm.units import GIB


def test_discrete_and_integrated_cards(machine_at: Callable[..., Path]) -> None:
    accelerators, notes = gpu.read(SysRoot(machine_at("graphics")))

    assert accelerators == (
        Accelerator("rocm", "Radeon RX 7900 XTX", 25753026560, 25753026560 - 1073741824, 960.0),
        Accelerator("rocm", "AMD GPU 15bf", unified=True),
        Accelerator("xe", "Arc B580", 12 * GIB, None, 456.0),
        Accelerator("xe", "Iris Xe 96EU (Tiger/Alder/Raptor Lake-P)", unified=True),
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

    assert nvml.read(notes) == []
    assert notes == [
        "an NVIDIA driver is loaded, but NVML does not answer (NVML Shared Library Not Found): GPUs unknown"
    ]


class FakeNvml(types.ModuleType):
    """Two devices as NVML 13 answers for them: a card, and a GB10 that has no memory of its own."""

    NVML_CLOCK_MEM = 2
    NVML_DEVICE_MIG_ENABLE = 1

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

    def nvmlDeviceGetMigMode(self, handle):
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetMaxClockInfo(self, handle, clock):
        return 2619

    def nvmlDeviceGetMemoryBusWidth(self, handle):
        return 5120


def test_nvml_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    notes: list[str] = []

    assert nvml.read(notes) == [
        Accelerator("cuda", "NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, 3352.3),
        Accelerator("cuda", "NVIDIA GB10", unified=True),
    ]
    assert len(notes) == 1
    assert library.shut_down


class DividedNvml(FakeNvml):
    """One H100 in two instances of seven places, the third of which failed."""

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetMigMode(self, handle):
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, place):
        if place > 1:
            raise self.NVMLError("Not Found")
        return f"part {place}"

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA H100 80GB HBM3" if handle == 0 else "NVIDIA H100 80GB HBM3 MIG 1g.10gb"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return types.SimpleNamespace(total=(80 if handle == 0 else 10) * GIB, free=9 * GIB)


def test_a_divided_gpu_is_its_instances_with_their_share_of_the_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", DividedNvml("pynvml"))
    notes: list[str] = []

    instances = nvml.read(notes)

    assert instances == [Accelerator("cuda", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 * GIB, 9 * GIB, 419.0)] * 2
    assert notes == []
    facts = gpu_table.find(instances[0])
    assert facts is not None
    assert (facts.known, facts.group, facts.bandwidth_gb_s) == ("family", "hopper", 419.0)


@pytest.mark.parametrize(
    ("model", "ram_gib", "device"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", 64, "Jetson AGX Orin 64GB"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 32, "Jetson AGX Orin 32GB"),
        ("NVIDIA Orin Nano Developer Kit", 8, "Jetson Orin Nano 8GB"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", 8, "Jetson Orin Nano 8GB"),
        ("NVIDIA Jetson AGX Thor Developer Kit", 128, "Jetson AGX Thor"),
    ],
)
def test_a_tegra_is_named_after_its_board(
    machine_at: Callable[..., Path], model: str, ram_gib: int, device: str
) -> None:
    tree = {"/proc/device-tree/compatible": "nvidia,tegra234\0", "/proc/device-tree/model": f"{model}\0"}

    found = gpu.read(SysRoot(machine_at(None, **tree)))[0]

    assert found == (Accelerator("cuda", model, unified=True),)
    facts = gpu_table.find(found[0], ram_gib * GIB)
    assert facts is not None
    assert facts.name == device


def _live(root: Path) -> SysRoot:
    """A hand-written tree that is taken for this machine, so that what is forbidden is looked at, too."""
    tree = SysRoot(root)
    tree.live = True
    tree.locate = lambda path: str(root / path.lstrip("/"))  # type: ignore[method-assign]
    return tree


def _card(**files: str) -> dict[str, str]:
    device = "/sys/class/drm/card0/device"
    return {
        f"{device}/vendor": "0x1002\n", f"{device}/device": "0x1586\n", f"{device}/mem_info_vram_total": "536870912\n",
        f"{device}/mem_info_vram_used": "100000000\n", f"{device}/mem_info_gtt_total": "66571993088\n",
        f"{device}/mem_info_gtt_used": "50000000\n", **files,
    }  # fmt: skip


def test_graphics_of_a_processor_may_use_what_the_driver_maps_of_the_ram(machine_at: Callable[..., Path]) -> None:
    whole = 536870912 + 66571993088

    cards = gpu.read(SysRoot(machine_at(None, **_card())))[0]

    assert cards == (Accelerator("vulkan", "AMD GPU 1586", whole, whole - 150000000, unified=True),)


def test_each_way_to_be_shut_out_of_a_gpu_has_its_remedy(
    machine_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = machine_at(None, **_card())
    (absent,) = gpu.read(_live(root))[1]
    assert "--device /dev/dri" in absent

    for path in ("dev/dri/renderD128", "sys/class/kfd/kfd/topology/nodes/0/properties"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    (no_kfd,) = gpu.read(_live(root))[1]
    assert "--device /dev/kfd" in no_kfd

    (root / "dev/kfd").write_text("")
    assert gpu.read(_live(root))[1] == []

    monkeypatch.setattr(os, "access", lambda path, mode: "renderD" not in str(path))
    (shut,) = gpu.read(_live(root))[1]
    assert f"--group-add {(root / 'dev/dri/renderD128').stat().st_gid}" in shut
