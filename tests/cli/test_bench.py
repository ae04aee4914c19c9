"""`edgellm bench` on the echo backend and on the real model: what it prints, what it keeps, and what that changes."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.refusals import refuses

from edgellm import files
from edgellm.cli.main import cli
from edgellm.errors import UsageError
from edgellm.hardware.probe import probe
from edgellm.history import run_log

ECHO = ("echo", "--prompt", "64", "--gen", "8", "--repeat", "2")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["bench", *arguments], catch_exceptions=False)


def report(*arguments: str) -> dict:
    return json.loads(run(*arguments, "--json").stdout)


def test_what_it_prints_for_people() -> None:
    lines = run(*ECHO, "--compare").stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["test", "pp64", "tg8"]
    assert "no earlier bench" in lines[-1]


def test_json_and_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.002")
    content = report(*ECHO, "--threads", "1,2", "--ctx", "0,100")
    assert (content["schema"], content["model"]) == (1, "echo")
    assert [(test["name"], test["threads"]) for test in content["tests"]] == [
        (name, threads) for threads in (1, 2) for name in ("pp64", "tg8", "pp64 @ 100", "tg8 @ 100")
    ]
    (bench,) = run_log.read(probe(measure=False)).benches
    assert [test.median for test in bench.tests] == [test["median"] for test in content["tests"]]
    assert content["tests"][0]["first_token_s"] >= 0.002
    assert 50 < content["tests"][1]["median"] < 500  # a step takes 2 ms and what a busy machine adds


def test_results_that_cannot_be_kept_are_shown(own_home: Path) -> None:
    (own_home / "data").mkdir(exist_ok=True)
    (own_home / "data" / "history").write_text("no folder")
    done = run(*ECHO)

    assert done.exit_code == 0
    assert "pp64" in done.stdout
    assert "not kept" in done.stderr


@pytest.mark.slow(3)
def test_a_regression_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps ten times as long: more than what other programs add to one.
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.01")
    run(*ECHO)
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.1")
    content = report(*ECHO, "--compare")
    assert [(change["name"], change["verdict"]) for change in content["changes"]] == [
        ("pp64", "slower"),
        ("tg8", "slower"),
    ]
    assert content["changes"][1]["ratio"] < 0.5
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.003")
    output = run(*ECHO, "--compare").stdout
    assert "the same build" in output
    assert "No test is slower than noise explains." in output


def test_against_needs_a_text() -> None:
    with refuses(UsageError, param="against"):
        run("echo", "--against", "echo")


@pytest.mark.parametrize("value", ["", "0", "a", "1,-2", "1,,2", "9999999999"])
def test_counts_that_are_none_are_refused(value: str) -> None:
    result = run("echo", "--prompt", value)
    assert result.exit_code == 2
    assert "is not a list of numbers" in result.stderr


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with refuses(UsageError, param="perplexity"):
        run("echo", "--perplexity", str(tmp_path / "gone.txt"))


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "read_named", partial(files.read_named, patience_s=0.05))
    os.mkfifo(tmp_path / "pipe")
    with refuses(UsageError, param="perplexity"):
        run("echo", "--perplexity", str(tmp_path / "pipe"))


@pytest.mark.slow(3)
def test_the_real_model_is_measured_and_scored(smollm2: str, tmp_path: Path) -> None:
    """Against itself it agrees on every token."""
    text = tmp_path / "text.txt"
    text.write_text("The rain fell on the harbour all night, and by morning every boat was full of water. " * 8)
    arguments = (smollm2, "--threads", "1", "--prompt", "64", "--gen", "17", "--repeat", "1")
    content = report(*arguments, "--perplexity", str(text), "--against", smollm2, "--chunk", "32", "--chunks", "1")
    speed = {test["name"]: test for test in content["tests"]}
    assert speed["tg17"]["median"] > 0
    assert speed["tg17"]["predicted"] > 0
    assert content["loads"][0]["measured"]["resident_bytes"] > 50 * 1024**2
    assert content["quality"]["top_agreement"] == 1
    assert content["quality"]["veto"] == ""
    machine = probe(measure=False)
    assert run_log.vetoes(machine) == {}
    assert len(run_log.read(machine).runs) == 1
