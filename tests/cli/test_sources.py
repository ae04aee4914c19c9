"""The command line with models that are named by their address."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import gguf_writer
from support.store_server import ModelServer
from support.waiting import PATIENCE_S

from edgellm.app import launch
from edgellm.cli import progress
from edgellm.cli.main import cli, main
from edgellm.types.request import SelectionRequest


@pytest.fixture
def server() -> Iterator[ModelServer]:
    model_server = ModelServer()
    yield model_server
    model_server.close()


@pytest.mark.model
@pytest.mark.slow(5)
def test_a_model_of_a_registry_answers(server: ModelServer, smollm2: str, own_home: Path, monkeypatch) -> None:
    """Fetched in another process, with progress in lines, answered from, and not asked for the next time."""
    server.files["o/r/m.gguf"] = Path(smollm2).read_bytes()
    server.models["library/smollm2/135m"] = ["o/r/m.gguf"]
    server.chunk = 1024**2
    uri = f"ollama://{server.url.removeprefix('http://')}/smollm2:135m"
    command = [sys.executable, "-m", "edgellm", "run", uri, "Hi", "--max-tokens", "3", "--ctx", "512"]
    env = os.environ | {"EDGELLM_HOME": str(own_home), "NO_PROXY": "127.0.0.1"}

    first = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert first.returncode == 0, first.stderr
    assert first.stdout.strip()
    assert "reading the header" in first.stderr
    assert "98.4 MB of 98.4 MB" in first.stderr
    n_requests = len(server.seen)
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    assert Path(launch.model_plan(uri, SelectionRequest(ctx=512)).artifact.path).is_relative_to(own_home)
    assert len(server.seen) == n_requests


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "http://example.com/m.gguf", "Hi"), 5, "is not encrypted"),
        (("run", "ollama:a b", "Hi"), 5, "names no model"),
        (("run", "hf://o", "Hi"), 5, "is not a hub source"),
        (("run", "echo", "Hi", "--max-rate", "fast"), 2, "'fast' is not a rate"),
        (("run", "https://example.com/m.gguf", "Hi", "--offline"), 5, "EDGELLM_OFFLINE is set"),
    ],
)
def test_what_cannot_be_is_said(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    said = capsys.readouterr().err
    assert (ended.value.code, says in said) == (code, True), said
    assert len(said.strip().splitlines()) >= 2, "what to do next"


def test_flags_hold_while_the_command_runs() -> None:
    before = dict(os.environ)

    done = CliRunner().invoke(cli, ["run", "echo", "Hi", "--max-rate", "1MB/s", "--offline", "--no-isolate"])

    assert done.exit_code == 0, done.output
    assert dict(os.environ) == before


def test_lines_say_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = iter([0.0, 1.0, 10.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines = progress._Lines(said.append)

    for done in (50, 60, 100, 200):
        lines(done * 10**6, 10**9, "m")
    lines(0, None, "checking")

    assert said == [
        "m: 50.0 MB of 1.00 GB",
        "m: 100.0 MB of 1.00 GB, 5.0 MB/s, 0:03:00 left",
        "m: 200.0 MB of 1.00 GB, 7.5 MB/s, 0:01:47 left",
        "checking",
    ]


@pytest.mark.parametrize(
    ("seconds", "n_bytes", "told"), [(1.9, 10**9, False), (60.0, 999_999, False), (2.0, 10**6, True)]
)
def test_the_first_bytes_say_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, seconds: float, n_bytes: int, told: bool
) -> None:
    said: list[str] = []
    now = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    lines = progress._Lines(said.append)
    lines(0, 10**10, "m")
    lines(n_bytes, 10**10, "m")
    assert ("left" in said[1], "/s" in said[1]) == (told, True)


def test_files_of_other_tools_are_listed(tmp_path: Path, own_home: Path) -> None:
    gguf_writer.model().write(tmp_path / "Mine.Q8_0.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")

    done = CliRunner().invoke(cli, ["models", "--installed", "--models-dir", str(tmp_path)])

    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[:2] == ["mine Q8_0  2.0 kB  (folder)", f"    {tmp_path}/Mine.Q8_0.gguf"]
    assert "broken.gguf   4 B  (folder)  damaged:" in done.output
