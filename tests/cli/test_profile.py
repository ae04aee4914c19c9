"""`edgellm profile` as a person meets it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.refusals import refuses

from edgellm import explain
from edgellm.cli.main import cli
from edgellm.cli.profile import command
from edgellm.errors import EdgeLLMError, UnknownProfile, UsageError
from edgellm.hardware import profiles
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator, Cpu, Machine, Memory
from edgellm.units import GIB


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(command, arguments)
        if isinstance(result.exception, EdgeLLMError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return invoke


def test_help_is_the_line_of_the_command_list() -> None:
    assert "Show or write what EdgeLLM knows of this machine." in CliRunner().invoke(cli, ["profile", "--help"]).output


def test_shows_a_profile(run) -> None:
    output = run("--profile", "orange-pi-5-8gb").stdout

    for part in (
        "Orange Pi 5, 8 GB",
        "RK3588S, 4x Cortex-A76 + 4x Cortex-A55 (aarch64, linux)",
        "8 physical, 8 logical",
        "4 performance, up to 2400 MHz",
        "4 efficiency, up to 1800 MHz",
        "dotprod fp16 neon",
        "8.00 GiB, available not stated",
        "33.8 GB/s (theoretical)",
        "7.20 GiB, 4 threads",
    ):
        assert part in output, part


def test_shows_limits_and_accelerators(run) -> None:
    assert "2.00 GiB memory, 0 B used, 2 CPUs (profile)" in run("--profile", "container-2cpu-2gb").stdout
    assert "RTX 4090 (cuda), 24.00 GiB" in run("--profile", "desktop-rtx-4090").stdout
    assert (
        "GB10, Blackwell, sm_121 (cuda), shares the machine's memory"
        in run("--profile", "nvidia-dgx-spark-128gb").stdout
    )


def test_what_is_known_of_a_gpu_and_what_is_wrong_with_it_are_shown(run, tmp_path: Path) -> None:
    problem = GpuProblem("node_closed", "Radeon RX 7900 XT", "/dev/dri/renderD128", group=105)
    machine = Machine(
        "x", "X", Cpu("x86_64"), Memory(GIB),
        accelerators=(
            Accelerator("vulkan", "Radeon RX 7900 XT", 20 * GIB, 19 * GIB, None, usable=False, display=True),
            Accelerator("cuda", "NVIDIA GeForce RTX 5090 SUPER", 32 * GIB), Accelerator("vulkan", "Stick 2000"),
        ),
        gpu_problems=(problem,),
    )  # fmt: skip
    path = tmp_path / "x.toml"
    path.write_text(profiles.dump(machine))

    output = run("--profile", str(path)).stdout

    assert "(vulkan), 20.00 GiB, free 19.00 GiB, draws a screen; cannot be used" in output
    assert "rdna3: 800 GB/s, 25.8 TFLOPS, 103 in FP16 (looked up)" in output
    assert "as others of its family" in output
    assert "not in the table of GPUs" in output
    assert explain.gpu_problem(problem) in output
    assert explain.gpu_remedy(problem) in output
    gpus = json.loads(run("--profile", str(path), "--json").stdout)["gpus"]
    assert [gpu and gpu["group"] for gpu in gpus] == ["rdna3", "blackwell", None]


def test_caches_are_shown_to_the_byte(run, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    caches = "l1d_bytes = 49_152\nl2_bytes = 1_310_720\nl3_bytes = 25_165_824"
    path.write_text(f'id = "x"\nname = "X"\n[cpu]\narch = "x86_64"\n{caches}\n[memory]\ntotal_bytes = 1\n')

    assert "L1d 48 KiB per core, L2 1280 KiB per core, L3 24 MiB" in run("--profile", str(path)).stdout


def test_square_brackets_in_a_name_are_no_markup(run, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        'id = "x"\nname = "[bold]X[/bold] [/]"\n[cpu]\narch = "x"\nmodel = "[red]M[/]"\n[memory]\ntotal_bytes = 1\n'
    )

    output = run("--profile", str(path)).stdout

    assert "[bold]X[/bold] [/]" in output
    assert "[red]M[/] (x, linux)" in output


def test_json_is_one_object_with_what_follows_from_the_machine(run) -> None:
    printed = json.loads(run("--profile", "raspberry-pi-5-8gb", "--json").stdout)

    assert printed["schema"] == 1
    assert printed["machine"]["cpu"]["isa"] == ["dotprod", "fp16", "neon"]
    assert (printed["memory_budget_bytes"], printed["compute_threads"]) == (7730941133, 4)


@pytest.mark.parametrize(
    ("name", "trust"),
    [("apple-m3-max-96gb", "unverified"), ("raspberry-pi-5-8gb", "verified"), ("apple-m1-8gb", None)],
)
def test_says_how_far_a_profile_can_be_trusted(run, name: str, trust: str | None) -> None:
    assert json.loads(run("--profile", name, "--json").stdout)["source_trust"] == trust
    assert ("unverified: written from memory, not looked up" in run("--profile", name).stdout) == (
        trust == "unverified"
    )


def test_this_machine_without_measuring(run) -> None:
    printed = json.loads(run("--no-measure", "--json").stdout)

    assert printed["machine"]["memory"]["bandwidth_gb_s"] is None
    assert printed["machine"]["cpu"]["cores"] >= 1


def test_out_writes_what_profile_reads(run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    result = run("--no-measure", "--out", str(path))

    assert (result.stdout, result.stderr) == ("", f"Wrote {path}\n")
    assert profiles.load(str(path)).os == json.loads(run("--profile", str(path), "--json").stdout)["machine"]["os"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(os.listdir(tmp_path)) == ["mine.toml"]


def test_out_to_standard_output_is_nothing_but_toml(run) -> None:
    printed = run("--profile", "raspberry-pi-5-8gb", "--out", "-").stdout

    assert profiles.parse(printed, Path("-")).machine == profiles.load("raspberry-pi-5-8gb")


def test_json_and_a_file_go_together(run, tmp_path: Path) -> None:
    result = run("--profile", "raspberry-pi-5-8gb", "--json", "--out", str(tmp_path / "x.toml"))

    assert json.loads(result.stdout)["machine"]["id"] == "raspberry-pi-5-8gb"
    assert (tmp_path / "x.toml").exists()


def test_out_replaces_nothing_unless_forced(run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("precious")

    with refuses(UsageError):
        run("--profile", "raspberry-pi-5-8gb", "--out", str(path))
    assert path.read_text() == "precious"

    run("--profile", "raspberry-pi-5-8gb", "--out", str(path), "--force")
    assert profiles.load(str(path)).id == "raspberry-pi-5-8gb"


def test_out_into_a_folder_that_is_not_there(run, tmp_path: Path) -> None:
    with refuses(UsageError):
        run("--profile", "raspberry-pi-5-8gb", "--out", str(tmp_path / "no" / "x.toml"))


def test_json_and_toml_cannot_both_have_standard_output(run) -> None:
    with refuses(UsageError):
        run("--json", "--out", "-")


def test_list(run) -> None:
    lines = run("--list").stdout.splitlines()

    assert len(lines) == len(profiles.names())
    assert any(line.split() == ["raspberry-pi-5-8gb", "Raspberry", "Pi", "5,", "8", "GB"] for line in lines)
    assert json.loads(run("--list", "--json").stdout) == profiles.names()


def test_an_unknown_profile(run) -> None:
    with refuses(UnknownProfile, varies=r"(?<=all )\d+"):
        run("--profile", "raspberry-pi-5-8g")
