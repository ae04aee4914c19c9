"""`edgellm plan` as a person meets it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgellm.app import context
from edgellm.cli import page
from edgellm.cli import plan as command_module
from edgellm.cli.main import main
from edgellm.hardware import profiles
from edgellm.selection import fleet
from edgellm.selection.backend_facts import BackendFacts
from edgellm.units import show_size

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "fleet.toml"
GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset({"f16", "q8_0"}))
BOX = '[[boxes]]\nname = "{}"\nprofile = "{}"\n'

Plan = Callable[..., tuple[str, str]]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Runs the command in this process, with one backend that opens GGUF files; gives standard output and error."""
    monkeypatch.setenv("EDGELLM_PLUGINS", "")
    monkeypatch.setattr(page, "columns", lambda *, err=False: None if err else 80)
    for facts in ("assumed_facts", "backend_facts"):
        monkeypatch.setattr(context, facts, lambda *_, **__: (GGUF,))

    def run(file: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main(["plan", "--fleet", str(file), *arguments])
        output = capsys.readouterr()
        assert end.value.code == code, output
        return output.out, output.err

    return run


def test_the_example_has_a_row_for_each_box_and_its_downloads(plan: Plan) -> None:
    output, _ = plan(EXAMPLE)
    report = json.loads(plan(EXAMPLE, "--json")[0])

    assert max(len(line.rstrip()) for line in output.splitlines()) <= 80
    assert [box["name"] for box in report["boxes"]] == ["classroom", "library", "teachers"]
    for box in report["boxes"]:
        file = next(file for file in report["downloads"]["files"] if box["name"] in file["boxes"])
        # What is downloaded is what the row says.
        assert f"{box['choice']['model']} {box['choice']['quant']}: {show_size(file['bytes'])}" in " ".join(
            output.split()
        )
        assert box["choice"]["ctx"] == 4096
        assert box["reasons"]
    assert report["one_model"] is None
    assert report["downloads"]["total_bytes"] > report["downloads"]["distinct_bytes"]
    assert "over all 16 machines" in output


def test_a_terminal_shows_that_boxes_are_being_chosen_for(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    @contextmanager
    def waiting(what: str) -> Iterator[None]:
        shown.append(what)
        yield
        shown.append("chosen")

    decided = fleet.plan
    monkeypatch.setattr(command_module, "waiting", waiting)
    monkeypatch.setattr(fleet, "plan", lambda sites: shown.append("choosing") or decided(sites))
    plan(EXAMPLE)
    assert shown == ["choosing for the boxes of school", "choosing", "chosen"]


def test_one_model_and_one_file(plan: Plan) -> None:
    report = json.loads(plan(EXAMPLE, "--one-model", "--json")[0])
    output, _ = plan(EXAMPLE, "--one-model")
    assert {box["choice"]["model"] for box in report["boxes"]} == {report["one_model"]["model"]}
    assert output.startswith(f"{report['one_model']['model']} for all boxes\n")
    assert f"{report['one_model']['limiting_box']} limits" in output

    report = json.loads(plan(EXAMPLE, "--one-file", "--json")[0])
    assert len({box["choice"]["source"] for box in report["boxes"]}) == 1
    assert len(report["downloads"]["files"]) == 1


def test_of_one_machine_nothing_is_said_over_all(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(BOX.format("own", "raspberry-pi-5-4gb"))
    output, _ = plan(file)

    assert "1 file to download" in output
    assert "over all" not in output


def test_a_box_with_nothing_to_run_is_said_and_exits_with_3(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(BOX.format("good", "intel-n100-16gb") + BOX.format("bad", "raspberry-pi-4-1gb") + "min_tps = 900\n")
    output, _ = plan(file, code=3)

    assert "nothing: nothing reaches 900 tok/s" in " ".join(output.split())
    assert json.loads(plan(file, "--json", code=3)[0])["boxes"][1]["choice"] is None


def test_a_profile_that_one_wrote_is_a_box(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "kiosk.toml").write_text(profiles.dump(profiles.load("raspberry-pi-5-4gb")))
    file = tmp_path / "f.toml"
    file.write_text(BOX.format("own", "kiosk.toml") + BOX.format("shipped", "raspberry-pi-5-4gb"))
    own, shipped = json.loads(plan(file, "--json")[0])["boxes"]

    assert own["choice"] == shipped["choice"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (BOX.format("a", "raspbery-pi-5-8gb"), "f.toml: line 1, a: profile: no hardware profile named"),
        (BOX.format("a", "none.toml"), "f.toml: line 1, a: profile: profile "),
        (BOX.format("a", "intel-n100-16gb") + "ctx = 1\n", "f.toml: line 1, a: ctx: ctx=1 is out of range"),
    ],
)
def test_a_bad_file_is_told_by_line_box_and_field(plan: Plan, tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)
    error = plan(file, code=2)[1]

    assert complaint in error
    assert len(error.splitlines()) == 2
