"""Names of GPUs as drivers print them lead to the facts of that device, and never to a relative's."""

from __future__ import annotations

import re

import pytest

from edgellm.hardware import gpu_table, profiles
from edgellm.types.machine import Accelerator
from edgellm.units import GIB


def _find(name: str, kind: str = "vulkan", gib: float | None = None, gb_s: float | None = None, unified: bool = False):
    return gpu_table.find(Accelerator(kind, name, None if gib is None else round(gib * GIB), None, gb_s, unified))


def test_every_device_is_found_by_its_own_name() -> None:
    lost = [row.name for row in gpu_table.table().rows if getattr(_find(row.name), "name", None) != row.name]
    assert lost == []


def test_every_row_says_where_it_is_from_and_belongs_to_a_group() -> None:
    table = gpu_table.table()
    groups = {group.name for group in table.groups}
    assert {row.group for row in table.rows} == groups
    assert {row.source for row in table.rows} <= set(table.sources)
    assert all(min(row.gb_s, row.fp32, row.matrix) > 0 for row in table.rows)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", "Radeon RX 7900 XTX"),
        ("AMD Radeon RX 7900 XT", "Radeon RX 7900 XT"),
        ("AMD Radeon RX 7900 GRE", "Radeon RX 7900 GRE"),
        ("Intel(R) Arc(TM) B580 Graphics", "Arc B580"),
        ("Intel(R) Arc(tm) A770M Graphics (DG2)", "Arc A770M"),
        ("NVIDIA GeForce RTX 4070", "GeForce RTX 4070"),
        ("NVIDIA GeForce RTX 4070 SUPER", "GeForce RTX 4070 SUPER"),
        ("NVIDIA GeForce RTX 4070 Ti", "GeForce RTX 4070 Ti"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "GeForce RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", "GeForce RTX 4070 Laptop"),
        ("NVIDIA GeForce RTX 2070 with Max-Q Design", "GeForce RTX 2070 Max-Q"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 Blackwell Max-Q"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Quadro RTX 6000", "Quadro RTX 6000"),
        ("NVIDIA RTX 4000 SFF Ada Generation", "RTX 4000 SFF Ada"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("Tesla V100-SXM2-16GB", "Tesla V100"),
        ("NVIDIA GeForce GTX 1650", "GeForce GTX 1650"),
        ("NVIDIA GeForce GTX 1650 Ti", "GeForce GTX 1650 Ti Mobile"),
        ("NVIDIA GeForce GTX 1060 3GB", "GeForce GTX 1060 3GB"),
        ("NVIDIA GB10", "GB10"),
        ("NVIDIA Thor", "Jetson AGX Thor"),
        ("AMD Radeon Graphics (RADV GFX1151)", "Radeon 8060S (Ryzen AI Max+ 395)"),
        ("AMD Radeon 880M Graphics (RADV GFX1150)", "Radeon 880M"),
        ("AMD Radeon 780M Graphics (RADV PHOENIX)", "Radeon 780M (Ryzen 7840/8845)"),
        ("AMD Custom GPU 0405 (RADV VANGOGH)", "Steam Deck (Van Gogh)"),
        ("Intel(R) Arc(TM) 140V GPU (16GB)", "Arc 140V (Lunar Lake)"),
        ("Intel(R) Arc(tm) Graphics (MTL)", "Arc Graphics (Meteor Lake, 8 Xe)"),
        ("Intel(R) Iris(R) Xe Graphics (TGL GT2)", "Iris Xe 96EU (Tiger/Alder/Raptor Lake-P)"),
        ("Intel(R) UHD Graphics 630 (CFL GT2)", "UHD 620/630 (24EU)"),
        ("Apple M3 Max (40c)", "Apple M3 Max (40c)"),
        ("Adreno (TM) 750", "Adreno 750 (8 Gen 3)"),
        ("V3D 7.1.7", "VideoCore VII (Raspberry Pi 5)"),
        ("Intel GPU e20b", "Arc B580"),
    ],
)
def test_names_as_drivers_print_them(name: str, device: str) -> None:
    gpu = _find(name)
    assert gpu is not None
    assert (gpu.name, gpu.known) == (device, "device")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("NVIDIA GeForce RTX 4070 Max-Q", "ada"),
        ("NVIDIA GeForce RTX 2080 with Max-Q Design", "turing"),
        ("NVIDIA GeForce RTX 5090 SUPER", "blackwell"),
        ("AMD Radeon RX 7850 XT", "rdna3"),
        ("Intel(R) Arc(TM) B770 Graphics", "battlemage"),
        ("NVIDIA GeForce GTX 1650 with Max-Q Design", "turing-notc"),
    ],
)
def test_a_stranger_of_a_known_family_is_no_relative_but_has_their_range(name: str, group: str) -> None:
    gpu = _find(name)
    assert gpu is not None
    assert (gpu.name, gpu.group, gpu.known) == (name, group, "family")
    assert gpu.bandwidth_range is not None
    assert gpu.bandwidth_range[0] <= gpu.bandwidth_gb_s <= gpu.bandwidth_range[1]
    stated = _find(name, gb_s=500.0)
    assert stated is not None
    assert (stated.bandwidth_gb_s, stated.bandwidth_range) == (500.0, None)


def test_a_stranger_with_a_bandwidth_is_taken_as_one_of_its_vendor() -> None:
    gpu = _find("NVIDIA GeForce RTX 7090", "cuda", 48, 2400.0)
    assert gpu is not None
    assert (gpu.vendor, gpu.known, gpu.bandwidth_gb_s) == ("nvidia", "bandwidth", 2400.0)
    assert _find("NVIDIA GeForce RTX 7090", "cuda", 48) is None
    assert _find("AMD Radeon Graphics") is None
    assert _find("llvmpipe (LLVM 15.0.7, 256 bits)") is None
    assert _find("Apple M6 Max") is None  # Maxwell has a Tesla M6


def test_memory_bandwidth_and_cores_tell_devices_of_one_name_apart() -> None:
    def name(*args: object, **more: object) -> str:
        gpu = _find(*args, **more)  # type: ignore[arg-type]
        return "" if gpu is None else gpu.name

    assert name("AMD GPU 744c", gib=24) == "Radeon RX 7900 XTX"
    assert name("AMD GPU 744c", gib=19.98) == "Radeon RX 7900 XT"
    assert name("NVIDIA GeForce RTX 3060", gib=12) == "GeForce RTX 3060"
    assert name("NVIDIA GeForce RTX 3060", gib=8) == "GeForce RTX 3060 8GB"
    assert name("Apple M3 Max", gb_s=409.6) == "Apple M3 Max (40c)"
    assert name("Apple M3 Max GPU", gb_s=307.2) == "Apple M3 Max (30c)"
    orin = Accelerator("cuda", "Orin (nvgpu)", unified=True)
    assert gpu_table.find(orin, 64 * GIB).name == "Jetson AGX Orin 64GB"  # type: ignore[union-attr]


def test_one_of_several_is_taken_as_the_slowest_and_said_to_be_a_guess() -> None:
    gpu = _find("Apple M3 Max")
    assert gpu is not None
    assert (gpu.known, gpu.bandwidth_gb_s) == ("variant", 300.0)


def test_every_gpu_of_a_shipped_profile_is_known() -> None:
    machines = [profiles.load(name) for name in profiles.names()]
    found = [(gpu.name, gpu_table.find(gpu, m.memory.total_bytes)) for m in machines for gpu in m.accelerators]
    assert [name for name, facts in found if facts is None or facts.known in ("family", "bandwidth")] == []


def test_two_instructions_at_once_are_not_counted() -> None:
    rdna3, ada = _find("Radeon RX 7900 XTX"), _find("GeForce RTX 4090")
    assert rdna3 is not None
    assert ada is not None
    assert (rdna3.fp32_tflops, ada.fp32_tflops) == (30.7, 82.6)


@pytest.mark.parametrize(
    ("name", "group", "known"),
    [
        ("Intel GPU 9a49", "xe-lp", "device"),
        ("Intel GPU a7a8", "xe-lp", "family"),
        ("Intel GPU b640", "arrow-lake", "family"),  # not Battlemage, whose names are B570 and the like
        ("Intel GPU e223", "battlemage", "family"),
        ("AMD GPU 7484", "rdna3", "family"),
        ("AMD GPU 7408", None, None),
        ("Intel GPU 0166", None, None),
    ],
)
def test_a_number_alone_gives_the_architecture(name: str, group: str | None, known: str | None) -> None:
    facts = _find(name)
    assert (facts and facts.group, facts and facts.known) == (group, known)


def test_the_numbers_of_a_device_are_of_its_group() -> None:
    groups = gpu_table.table().groups
    vendors = {group.name: group.vendor for group in groups}
    wrong = [
        (row.name, group.name)
        for row in gpu_table.table().rows
        for number in row.pci.split()
        for group in groups
        if group.vendor == vendors[row.group] and group.name != row.group and re.fullmatch(group.pci, number[5:])
    ]
    assert wrong == []
