from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from support.gpu_machine import DATA, parse_tree, unpack

from edgellm.hardware import gpu_load, gpu_table, nvml
from edgellm.hardware.linux import gpu
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator
from edgellm.units import GIB


def test_discrete_and_integrated_cards(machine_at: Callable[..., Path]) -> None:
    accelerators, problems = gpu.read(SysRoot(machine_at("graphics")))

    assert accelerators == (
        Accelerator(
            "rocm",
            "Radeon RX 7900 XTX",
            25753026560,
            25753026560 - 1073741824,
            960.0,
            display=True,
            slot="0000:03:00.0",
        ),
        Accelerator("rocm", "AMD GPU 15bf", unified=True, slot="0000:c1:00.0"),
        Accelerator("xe", "Arc B580", 12 * GIB, None, 456.0, slot="0000:04:00.0"),
        Accelerator("xe", "Iris Xe 96EU (Tiger/Alder/Raptor Lake-P)", 24 * GIB, unified=True, slot="0000:00:02.0"),
    )
    assert problems == [GpuProblem("memory_from_bar", "Arc B580", vendor="intel")]


def test_garbage_is_a_card_of_unknown_memory(machine_at: Callable[..., Path]) -> None:
    accelerators, problems = gpu.read(SysRoot(machine_at("garbage")))

    assert [card.vram_bytes for card in accelerators] == [None, None]
    assert [problem.kind for problem in problems] == ["memory_not_told", "memory_not_told"]


def test_none_is_said(machine_at: Callable[..., Path]) -> None:
    accelerators, problems = gpu.read(SysRoot(machine_at("container-v1")))

    assert accelerators == ()
    assert [problem.kind for problem in problems] == ["none"]


def test_tegra_shares_the_memory_of_its_board(machine_at: Callable[..., Path]) -> None:
    root = machine_at(None, **{"/proc/device-tree/compatible": "nvidia,p3768-0000\0nvidia,tegra234\0"})

    assert gpu.read(SysRoot(root))[0] == (Accelerator("cuda", "NVIDIA Tegra", unified=True),)


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


def test_rocm_needs_its_own_device_beside(machine_at: Callable[..., Path]) -> None:
    node = "/sys/class/drm/card0/device/drm/renderD128/dev"
    kfd = "/sys/class/kfd/kfd/topology/nodes/0/properties"
    vulkan = "/usr/share/vulkan/icd.d/radeon_icd.json"
    root = machine_at(None, **_card(**{node: "226:128", kfd: "", "/dev/dri/renderD128": "", vulkan: ""}))

    gpus, problems = gpu.read(SysRoot(root, live=True))

    assert [(card.kind, card.usable) for card in gpus] == [("rocm", True)]  # as Vulkan does without it
    assert [(problem.kind, problem.path) for problem in problems] == [("node_missing", "/dev/kfd")]


def test_a_container_may_forbid_what_the_files_mode_allows(
    machine_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    node = "/sys/class/drm/card0/device/drm/renderD128/dev"
    root = machine_at(None, **_card(**{node: "226:128", "/dev/dri/renderD128": "", "/.dockerenv": ""}))
    monkeypatch.setattr("os.open", refuse)

    gpus, problems = gpu.read(SysRoot(root, live=True))

    assert [card.usable for card in gpus] == [False]
    assert [(problem.kind, problem.detail) for problem in problems] == [("node_denied", "Operation not permitted")]


@pytest.mark.parametrize(
    ("revision", "firmware", "name"),
    [
        ("0xc1", "", "AMD Radeon RX 6800 XT"),
        ("0xc1", "Navi 21 [Sapphire Nitro+]", "AMD Radeon RX 6800 XT"),
        ("0xc1", "AMD Radeon RX 6900 XT", "AMD Radeon RX 6900 XT"),
        ("0xff", "", "AMD GPU 73bf"),
    ],
)
def test_a_card_without_a_name_has_that_of_libdrms_list(
    machine_at: Callable[..., Path], revision: str, firmware: str, name: str
) -> None:
    device = "/sys/class/drm/card0/device"
    listed = "# List of AMDGPU IDs\n1.0.0\n73BF,\tC0,\tAMD Radeon RX 6900 XT\n73BF,\tC1,\tAMD Radeon RX 6800 XT\n"
    card = {f"{device}/device": "0x73bf\n", f"{device}/revision": f"{revision}\n", f"{device}/product_name": firmware}

    gpus = gpu.read(SysRoot(machine_at(None, **_card(**card, **{"/usr/share/libdrm/amdgpu.ids": listed}))))[0]

    assert [card.name for card in gpus] == [name]


def test_a_tegra_in_a_container_is_known_by_its_chip(machine_at: Callable[..., Path]) -> None:
    soc = {"/sys/devices/soc0/family": "Tegra\n", "/sys/devices/soc0/machine": "NVIDIA Jetson AGX Orin\n"}

    assert gpu.read(SysRoot(machine_at(None, **soc)))[0] == (
        Accelerator("cuda", "NVIDIA Jetson AGX Orin", unified=True),
    )


DRIVERS = {"gpu-amd-discrete", "gpu-intel-xe", "gpu-nvidia-two", "gpu-wsl"}  # one machine of each


@pytest.mark.parametrize(
    "name",
    [
        path.stem if path.stem in DRIVERS else pytest.param(path.stem, marks=pytest.mark.slow(3))
        for path in sorted(DATA.glob("gpu-*.tree"))
    ],
)
def test_garbage_in_any_file_is_no_error(tmp_path: Path, name: str) -> None:
    files = parse_tree((DATA / f"{name}.tree").read_text("utf-8"))
    for at, (path, garbage) in enumerate(
        itertools.product(files, ("", "-1\n", "9" * 20, "\0\x1b[31m" * 99, "DRIVER=../../x"))
    ):
        root = unpack(files | {path: garbage}, tmp_path / str(at))
        for live in (False, True):
            gpus, problems = gpu.read(SysRoot(root, live=live))
            words = [*(card.name for card in gpus), *(problem.device + problem.driver for problem in problems)]
            assert all(word.isprintable() and len(word) <= 160 for word in words)


@pytest.mark.parametrize(("ram", "shared"), [(4 * GIB, 2 * GIB), (16 * GIB, 12 * GIB), (None, None)])
def test_what_a_processors_own_graphics_may_take(machine_at: Callable[..., Path], ram: int, shared: int) -> None:
    device = "/sys/class/drm/card0/device"
    tree = {f"{device}/vendor": "0x8086\n", f"{device}/device": "0x46d1\n"}
    tree[f"{device}/uevent"] = "PCI_SLOT_NAME=0000:00:02.0\n"
    if ram:
        tree["/proc/meminfo"] = f"MemTotal: {ram // 1024} kB\n"

    gpus = gpu.read(SysRoot(machine_at(None, **tree)))[0]

    assert [(card.name, card.vram_bytes, card.unified) for card in gpus] == [("UHD (N100, 24EU)", shared, True)]


def test_a_name_that_is_no_text_is_shown_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", pynvml.convertStrBytes(lambda handle: b"NVIDIA \xff"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", pynvml.convertStrBytes(lambda handle: b"GPU-\xff"))
    refusing = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    for name in ("MigMode", "MemoryInfo", "DisplayActive", "PciInfo", "MaxClockInfo", "MemoryBusWidth"):
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", Mock(side_effect=refusing))
    (device,) = nvml.read([]) or []
    assert (device.whole.name, device.uuid) == ("NVIDIA \ufffd", "GPU-\ufffd")


@pytest.mark.parametrize(
    ("percent", "slots", "share"),
    [
        ("63\n", {"0000:03:00.0"}, 0.63),
        ("63\n", {""}, 0.63),  # which one is not known
        ("63\n", {"0000:04:00.0"}, None),
        ("63\n", set(), None),
        ("unknown\n", {""}, None),
        ("900\n", {""}, None),
    ],
)
def test_how_busy_a_gpu_is_is_read_of_its_driver(
    machine_at: Callable[..., Path], percent: str, slots: set[str], share: float | None
) -> None:
    device = "/sys/class/drm/card0/device"
    busy = {f"{device}/uevent": "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0\n", f"{device}/gpu_busy_percent": percent}
    assert gpu_load.busiest(slots, {}, SysRoot(machine_at(None, **_card(**busy)))) == share


def test_how_busy_nvidias_gpus_are_is_asked_of_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPciInfo", lambda handle: SimpleNamespace(domain=0, bus=handle, device=0))
    refusing = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    told = [SimpleNamespace(gpu=40), refusing]
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", Mock(side_effect=told))
    assert nvml.busy() == {"0000:00:00.0": 0.4}
    monkeypatch.setattr(pynvml, "nvmlInit", Mock(side_effect=refusing))
    assert nvml.busy() == {}
