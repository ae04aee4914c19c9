"""`edgellm tune` as a person meets it: the verdict, the progress, Ctrl-C, and the table at the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from app.test_tune import ROWS, TEMPLATE
from support import toy_tuner
from support.gguf_decoders import Decoder, byte_level

from edgellm.cli.main import main

Run = Callable[..., tuple[str, str]]
OPTIONS = ("--batch", "2", "--learning-rate", "0.5", "--held-out", "0.4", "--threads", "1", "--nice", "0")


@pytest.fixture
def asked(tmp_path: Path, toy: toy_tuner.ToyTuner) -> list[str]:
    vocabulary = byte_level(288) | {"tokenizer.chat_template": TEMPLATE}
    base = Decoder(keys={"context_length": 256}, vocabulary=vocabulary).write(tmp_path / "tiny.gguf")
    data = tmp_path / "mail.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS) + "{\n")
    return ["tune", os.fspath(base), os.fspath(data), *OPTIONS]


@pytest.fixture
def command(asked: list[str]) -> list[str]:
    return [sys.executable, "-m", "edgellm", *asked]


@pytest.fixture
def run(asked: list[str], capsys: pytest.CaptureFixture[str]) -> Run:
    """In this process; gives standard output and error."""

    def run(*more: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main([*asked, *more])
        output = capsys.readouterr()
        assert end.value.code == code, output
        return output.out, output.err

    return run


def test_from_the_verdict_to_the_table(run: Run) -> None:
    plan, _ = run("--control", "--plan")
    done, told = run("--epochs", "2")

    assert "line 61: it cannot be read as JSON" in plan
    assert "36 examples of 61 lines" in plan
    assert "once more with shuffled answers" in plan
    assert done.startswith(plan.splitlines()[0])
    assert "loss " in told
    assert "right answers of 12" in done
    assert "in its prompt: no different" in done
    assert "other text has" in done
    assert "edgellm run tiny:mail" in done


def test_json_says_the_same_for_programs(run: Run) -> None:
    done, told = run("--name", "post", "--shots", "2", "--general", "none", "--control", "--json")
    answer = json.loads(done)

    assert (answer["schema"], answer["name"], answer["needed_bytes"]) == (1, "post", 9 * 1024**2)
    assert answer["tuned"]["model"] == "tiny:post"
    gate = answer["tuned"]["gate"]
    assert gate["zero_shot"]["n_rows"] == gate["few_shot"]["n_rows"] == gate["shuffled"]["n_rows"] == 12
    assert (gate["n_shots"], gate["forgetting"], answer["control"]) == (2, None, True)
    assert "with shuffled answers" in told
    assert Path(answer["tuned"]["path"]).is_file()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow(6))])
def test_a_signal_ends_it_after_a_step(command: list[str], number: signal.Signals) -> None:
    command += ["--epochs", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert any(re.match(r"step \d+ of", line) for line in process.stderr)
        process.send_signal(number)
        said, told = process.stdout.read(), process.stderr.read()

    assert process.returncode == 128 + number
    assert "Stopping after this step." in told
    assert "The same command goes on from here." in said
    assert "an earlier run" in subprocess.run([*command, "--plan"], capture_output=True, text=True, check=True).stdout
    jobs = [sys.executable, "-m", "edgellm", "adapters", "jobs"]
    listed = subprocess.run(jobs, capture_output=True, text=True, check=True).stdout
    assert "tiny:mail." in listed
    assert f"go on: edgellm tune {command[4]} {command[5]} --name mail" in " ".join(listed.split())
    freed = subprocess.run([*jobs, "--rm", "tiny:mail", "--json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(freed)["jobs"] == []
    assert json.loads(freed)["removed"][0]["freed_bytes"] > 10_000


def test_without_a_tuner_it_says_how_to_get_one(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_PLUGINS", "gguf")
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 6
    assert "make setup-tune" in done.stderr


@pytest.mark.slow(10)
def test_a_model_comes_of_full_tuning(command: list[str]) -> None:
    command += ["--method", "full", "--general", "none"]
    plan = subprocess.run([*command, "--plan"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ask = [sys.executable, "-m", "edgellm"]
    shown = subprocess.run([*ask, "adapters", "show", "tiny:mail"], capture_output=True, text=True, check=True).stdout
    said = subprocess.run([*ask, "run", "tiny:mail", "hello"], capture_output=True, text=True, check=False)
    freed = subprocess.run([*ask, "adapters", "rm", "tiny:mail"], capture_output=True, text=True, check=True).stdout

    assert "a model of its own in Q8_0" in plan
    assert "edgellm run tiny:mail" in done
    assert "a model in Q8_0 by full" in shown
    assert said.returncode == 0
    assert "Removed tiny:mail" in freed


def test_a_plan_says_where_it_computes(run: Run) -> None:
    here, _ = run("--device", "cpu", "--plan")
    chosen, _ = run("--plan", "--json")
    _, told = run("--device", "cuda:99", code=2)

    assert "on the processor, as asked" in here
    answer = json.loads(chosen)
    [where] = [one for one in answer["choice"]["reasons"] if one["kind"] == "tune_device_chosen"]
    assert where["device"] == answer["choice"]["settings"]["device"]
    assert (answer["device_bytes"] > 0) == (where["device"] != "cpu")
    assert "cuda:99" in told
