"""What holds a machine back is read off its settings; what is ordinary is not complained of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.hardware.host_checks import busy_load, hindrances
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Cpu, Limits, Machine, Memory

MACHINE = Machine("m", "M", Cpu("x86_64", cores=2, threads=4), Memory(2**34, swap_bytes=2**30))
POLICY = "sys/devices/system/cpu/cpu0/cpufreq"


def found(tmp_path: Path, machine: Machine = MACHINE, **files: str) -> list[str]:
    for name, text in files.items():
        path = tmp_path / {
            "driver": f"{POLICY}/scaling_driver", "governor": f"{POLICY}/scaling_governor",
            "preference": f"{POLICY}/energy_performance_preference", "load": "proc/loadavg",
            "pages": "sys/kernel/mm/transparent_hugepage/enabled",
        }[name]  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return [f"{row.text} | {row.fix}" for row in hindrances(machine, SysRoot(tmp_path))]


def test_nothing_known_is_nothing_said(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("driver", "governor", "preference", "says"),
    [
        ("acpi-cpufreq", "powersave", "", "governor powersave"),
        ("acpi-cpufreq", "schedutil", "", ""),
        ("intel_pstate", "powersave", "balance_performance", ""),
        ("intel_pstate", "powersave", "power", "energy_performance_preference power"),
        ("amd-pstate-epp", "performance", "performance", ""),
    ],
)
def test_power_modes(tmp_path: Path, driver: str, governor: str, preference: str, says: str) -> None:
    texts = found(tmp_path, driver=driver, governor=governor, preference=preference)
    assert [says in text for text in texts] == [True] * bool(says)


@pytest.mark.parametrize(("pages", "told"), [("always madvise [never]", 1), ("always [madvise] never", 0), ("x", 0)])
def test_pages(tmp_path: Path, pages: str, told: int) -> None:
    assert len(found(tmp_path, pages=pages)) == told


@pytest.mark.parametrize(("load", "told"), [("4.1 1 1 2/300 99", 1), ("3.9 9 9 2/300 99", 0), ("x", 0), ("", 0)])
def test_load(tmp_path: Path, load: str, told: int) -> None:
    assert ["--threads 1" in text for text in found(tmp_path, load=load)] == [True] * told


def test_load_over_one_minute_and_over_five(tmp_path: Path) -> None:
    found(tmp_path, load="9.5 4.1 1 2/300 99")
    tree = SysRoot(tmp_path)
    assert (busy_load(MACHINE, tree), busy_load(MACHINE, tree, minutes=5)) == (9.5, 4.1)
    found(tmp_path, load="9.5 3.9 1 2/300 99")
    assert (busy_load(MACHINE, tree), busy_load(MACHINE, tree, minutes=5)) == (9.5, None)


def test_no_swap_is_told_where_no_limit_ends_a_program_first(tmp_path: Path) -> None:
    bare = replace(MACHINE, memory=Memory(2**34))
    assert "no swap" in found(tmp_path, bare)[0]
    assert found(tmp_path, replace(bare, limits=Limits(memory_bytes=2**30))) == []


def test_other_systems_are_not_asked(tmp_path: Path) -> None:
    assert found(tmp_path, replace(MACHINE, os="darwin", memory=Memory(2**34)), pages="[never]") == []
