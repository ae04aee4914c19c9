"""With --profile nothing of this machine takes part: not what lies on its disk, was measured on it, or is set in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.app import context
from edgellm.cli.main import main
from edgellm.contract.manager import plugins
from edgellm.errors import EdgeLLMError
from edgellm.hardware import host_checks, probe, profiles
from edgellm.history import calibrations, run_log
from edgellm.store import local
from edgellm.store.library import Library
from edgellm.types.calibration import Calibration

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "fleet.toml"
Tell = Callable[..., str]


class Planner:
    """A backend that opens GGUF files and can be planned for only."""

    name = "gguf"
    formats = frozenset({"gguf"})
    quants = None
    kv_types = frozenset({"f16", "q8_0", "q4_0"})

    def check(self, machine):
        return []


class Offloading(Planner):
    """One that could be built for GPUs."""

    def offload(self, machine):
        raise AssertionError(f"of {machine.name} a build is assumed, and none is asked")


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    monkeypatch.setenv("EDGELLM_PLUGINS", "")
    monkeypatch.setattr(type(plugins()), "backends", lambda self: {"gguf": Planner()})

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        output = capsys.readouterr()
        assert end.value.code == 0, output
        return output.out

    return run


COMMANDS = {
    "auto-select": ("auto-select", "--profile", "raspberry-pi-5-8gb", "--json"),
    "auto-select for agents": ("auto-select", "--profile", "intel-n100-16gb", "--task", "agent", "--json"),
    "estimate": ("estimate", "qwen3-4b", "--profile", "raspberry-pi-5-8gb", "--json"),
    "models": ("models", "--fits", "--profile", "raspberry-pi-5-8gb", "--json"),
    "plan": ("plan", "--fleet", str(EXAMPLE), "--json"),
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_nothing_of_this_machine_is_asked_for(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    def touched(name: str) -> Callable[..., object]:
        def fail(*args: object, **kwargs: object) -> object:
            raise EdgeLLMError(f"{name} was asked for")

        return fail

    plain = tell(*arguments)
    for where, name in (
        (context, "corrections"), (context, "divergences"), (run_log, "read"), (run_log, "vetoes"),
        (run_log, "corrections"), (local, "cards"),
        (local, "models"), (Library, "local_keys"), (Library, "installed"), (probe, "probe"),
        (context, "backend_facts"), (Planner, "check"),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, touched(name))
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    # Whoever read them would say that they are not there.
    monkeypatch.setenv("EDGELLM_MODELS", "/nowhere/models.toml")
    monkeypatch.setenv("EDGELLM_MODELS_DIR", "/nowhere")

    assert tell(*arguments) == plain


@pytest.mark.parametrize("name", ["raspberry-pi-5-8gb", "intel-n100-16gb", "apple-m2-16gb", "container-2cpu-2gb"])
def test_the_machine_itself_would_say_the_same(tell: Tell, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    there = json.loads(tell("auto-select", "--profile", name, "--json"))
    monkeypatch.setattr(probe, "probe", lambda **_: profiles.load(name))
    monkeypatch.setattr(host_checks, "busy_load", lambda machine, minutes=1: None)
    itself = json.loads(tell("auto-select", "--json"))

    assert itself == there


class Measuring(Planner):
    """One that can be measured."""

    def build(self):
        return "b1"

    def calibrate(self, settings):
        raise AssertionError("it was measured already")


def test_what_was_measured_there_goes_with_its_profile(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_home: Path
) -> None:
    """A measured machine is planned for elsewhere as it would decide itself."""
    name, path = "raspberry-pi-5-8gb", tmp_path / "box.toml"
    machine, threads = profiles.load(name), (1, 4)
    monkeypatch.setattr(type(plugins()), "backends", lambda self: {"gguf": Measuring()})
    monkeypatch.setattr(probe, "probe", lambda **_: machine)
    monkeypatch.setattr(host_checks, "busy_load", lambda machine, minutes=1: None)
    kinds = {"Q4_K": 3.1, "Q5_K": 2.9, "Q6_K": 2.2, "Q8_0": 1.9, "Q4_0": 3.3}
    rates = Calibration(
        {(kind, n): rate * n for kind, rate in kinds.items() for n in threads},
        {(kind, n): 6 * rate * n for kind, rate in kinds.items() for n in threads},
        attention={("f16", n): 2.0 * n for n in threads}, layer_s=dict.fromkeys(threads, 2e-05), build="b1",
    )  # fmt: skip
    calibrations.save(machine, "gguf", rates)
    tell("profile", "--out", str(path))
    itself = tell("auto-select", "--json")
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "elsewhere"))

    assert tell("auto-select", "--profile", str(path), "--json") == itself
    choice, plain = (json.loads(text)["choice"] for text in (itself, tell("auto-select", "--profile", name, "--json")))
    assert choice["decode"]["basis"].startswith("measured: calibrated")
    assert choice["decode"] != plain["decode"]


@pytest.mark.parametrize("lasts", [False, True], ids=["a minute", "five minutes"])
def test_beside_other_programs_every_command_tells_the_same(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, *, lasts: bool
) -> None:
    monkeypatch.setattr(probe, "probe", lambda **_: profiles.load("intel-n100-16gb"))
    monkeypatch.setattr(host_checks, "busy_load", lambda machine, minutes=1: 9.5 if lasts or minutes == 1 else None)
    chosen = json.loads(tell("auto-select", "--json"))["choice"]
    model, quant = chosen["model"], chosen["quant"]

    (estimate,) = json.loads(tell("estimate", f"{model}:{quant}", "--json"))["estimates"]
    assert [one["threads"] for one in (chosen, estimate)] == [1 if lasts else 4] * 2
    assert (estimate["decode"], estimate["prefill"]) == (chosen["decode"], chosen["prefill"])
    assert estimate["busy"]["least_tok_s"] == chosen["decode"]["low"]
    for command in (["auto-select"], ["estimate", model], ["estimate", f"{model}:{quant}"], ["models", "--fits"]):
        words = " ".join(tell(*command).split())
        assert "Busy: " in words
        assert "a load of 9.5" in words
        assert ("surely keeps" in words) == ("when nothing else runs; a small model" in words)


def test_this_machine_in_a_fleet_is_planned_as_auto_select_does(tell: Tell, tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[[boxes]]\nname = "here"\nprofile = "this machine"\nmax_memory = "4GiB"\n')

    box = json.loads(tell("plan", "--fleet", str(path), "--json"))["boxes"][0]
    alone = json.loads(tell("auto-select", "--max-memory", "4GiB", "--json"))
    assert (box["choice"]["model"], box["choice"]["quant"]) == (alone["choice"]["model"], alone["choice"]["quant"])


@pytest.mark.slow(12)
def test_placements_on_gpus_are_the_same_in_every_command(
    tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(plugins()), "backends", lambda self: {"gguf": Offloading()})
    there = ("--profile", "desktop-rtx-3060-12gb")
    path = tmp_path / "fleet.toml"
    path.write_text('[[boxes]]\nname = "there"\nprofile = "desktop-rtx-3060-12gb"\n')
    choice = json.loads(tell("auto-select", *there, "--json"))["choice"]
    (box,) = json.loads(tell("plan", "--fleet", str(path), "--json"))["boxes"]
    rows = json.loads(tell("models", "--fits", *there, "--json"))["models"]
    (chosen,) = [row for row in rows if row["chosen"]]

    assert choice["placement"]["parts"]
    assert box["choice"] == choice
    assert chosen["id"] == choice["model"]
    assert chosen["here"] == {key: choice[key] for key in chosen["here"]}
    assert "on RTX 3060 12GB" in " ".join(tell("plan", "--fleet", str(path)).split())
    assert "On RTX 3060 12GB: " in tell("models", "--fits", *there)
