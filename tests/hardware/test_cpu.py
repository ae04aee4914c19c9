"""Architecture, names and instruction sets; cores and caches are in test_topology.py."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.hardware.linux import cpu, cpuinfo, hwcap, isa
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.printable import clean

AVX512 = (
    "fpu lm sse2 pni ssse3 sse4_1 sse4_2 popcnt avx f16c fma bmi2 avx2 avx512f avx512bw avx512vl avx512_vnni amx_tile"
)


def info(*features: str, field: str = "flags", **common: str) -> cpuinfo.CpuInfo:
    blocks = [f"processor: {n}\n{field}: {flags}\n" for n, flags in enumerate(features)]
    return cpuinfo.parse("\n".join([*blocks, *(f"{key}: {value}" for key, value in common.items())]))


def test_x86_names_are_those_used_everywhere() -> None:
    expected = "amx_tile avx avx2 avx512bw avx512f avx512vl avx512vnni bmi2 f16c fma popcnt sse2 sse3 sse41 sse42 ssse3"

    assert isa.from_cpuinfo(info(AVX512), "x86_64") == tuple(expected.split())


def test_arm_names() -> None:
    features = info("fp asimd fphp asimdhp asimddp sve i8mm bf16", field="Features")

    assert isa.from_cpuinfo(features, "aarch64") == ("bf16", "dotprod", "fp16", "i8mm", "neon", "sve")


def test_only_what_every_processor_has_is_usable() -> None:
    assert isa.from_cpuinfo(info("avx2 avx512f", "avx2"), "x86_64") == ("avx2",)


def test_no_features_at_all_is_unknown_and_not_none_of_them() -> None:
    assert isa.from_cpuinfo(cpuinfo.parse("processor: 0\n"), "x86_64") is None
    assert isa.from_cpuinfo(info("fpu"), "x86_64") == ()


@pytest.mark.parametrize(("words", "names"), [("rv64imafdc", ()), ("rv64imafdcv_zba", ("rvv",)), ("rv64imac_zvfh", ())])
def test_riscv_vectors_are_a_single_letter(words: str, names: tuple[str, ...]) -> None:
    assert isa.from_cpuinfo(info(words, field="isa"), "riscv64") == names


def test_features_said_once_after_the_processors_are_found() -> None:
    text = "processor: 0\nBogoMIPS: 1\n\nprocessor: 1\n\nFeatures: half neon vfpv4\nHardware: X\n"

    assert isa.from_cpuinfo(cpuinfo.parse(text), "armv7l") == ("neon", "vfpv4")


@pytest.mark.parametrize(
    ("text", "arch"),
    [
        ("processor: 0\nflags: fpu lm sse2\n", "x86_64"),
        ("processor: 0\nflags: fpu sse2\n", "i686"),
        ("processor: 0\nFeatures: fp asimd\nCPU architecture: 8\n", "aarch64"),
        ("processor: 0\nFeatures: half neon\nCPU architecture: 7\n", "armv7l"),
        ("processor: 0\nmodel name: ARMv6-compatible processor rev 7 (v6l)\nCPU architecture: 7\n", "armv6l"),
        ("processor: 0\nisa: rv64imac\n", "riscv64"),
        ("processor: 0\ncpu: POWER9, altivec supported\n", "ppc64le"),
        ("", "unknown"),
    ],
)
def test_architecture_of_a_recorded_machine(tmp_path: Path, text: str, arch: str) -> None:
    assert cpu.architecture(SysRoot(tmp_path), cpuinfo.parse(text)) == arch


def test_32_bit_arm_without_neon(machine_at: Callable[..., Path]) -> None:
    processor, _, notes = cpu.read(SysRoot(machine_at("armv6")))

    assert (processor.arch, processor.model, processor.isa, processor.cores) == ("armv6l", "BCM2835, 1x ARM1176", (), 1)
    assert any("physical cores unknown" in note for note in notes)


def test_names_from_firmware_cannot_steer_a_terminal() -> None:
    assert clean("Evil\x1b[2J\n  CPU\u202e" + "x" * 500).startswith("Evil [2J CPU x")
    assert len(clean("x" * 500)) == 120


def test_amx_needs_the_kernel_to_grant_its_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    live, notes = SysRoot(), []
    monkeypatch.setattr(isa, "amx_permitted", lambda: False)

    assert "amx_tile" not in cpu._isa(live, info(AVX512), "x86_64", notes)
    assert notes == ["the processor has AMX, but this kernel does not grant its tile registers: not counted as usable"]


def test_a_live_arm_process_believes_its_own_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwcap, "words", lambda: frozenset({"asimd", "asimddp"}))
    host, notes = info(AVX512), []  # what an older qemu-user shows of the machine below it

    assert cpu._isa(SysRoot(), host, "aarch64", notes) == ("dotprod", "neon")
    assert len(notes) == 1
    assert "disagree about dotprod, neon" in notes[0]


def test_the_vector_is_not_asked_about_a_recorded_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hwcap, "words", lambda: frozenset({"asimd", "sve"}))

    assert cpu._isa(SysRoot(tmp_path), info("fp asimd", field="Features"), "aarch64", []) == ("neon",)


def test_a_c_library_without_the_vector_leaves_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwcap, "words", lambda: None)
    notes: list[str] = []

    assert cpu._isa(SysRoot(), info("fp asimd", field="Features"), "aarch64", notes) == ("neon",)
    assert notes == []


@pytest.mark.skipif(platform.machine() != "aarch64", reason="the bits are those of 64-bit Arm")
def test_vector_and_file_of_this_machine_agree() -> None:
    assert isa.from_hwcap() == isa.from_cpuinfo(cpuinfo.parse(SysRoot().text("/proc/cpuinfo")), "aarch64")
    assert "neon" in (isa.from_hwcap() or ())
