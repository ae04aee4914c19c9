"""The programs under docs/examples run as they stand, with the echo model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.live_server import Servers

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch):
    servers = Servers(monkeypatch)
    yield servers
    servers.close()


def started(name: str, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=280, check=False)


def run(name: str, *arguments: str, typed: str = "") -> str:
    result = started(name, *arguments, typed=typed)
    assert result.returncode == 0, result.stderr
    return result.stdout


ANSWERING = ("chat.py", "classify.py", "conversation.py", "embeddings.py", "extract.py", "stream_async.py", "tools.py")


@pytest.mark.parametrize("name", ANSWERING)
def test_a_model_that_is_none_is_told_in_a_line(name: str) -> None:
    result = started(name, "nosuch")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no model named 'nosuch'")
    assert result.stderr.count("\n") == 1


def test_chat() -> None:
    assert run("chat.py", "echo") == "Why is the sky blue?\n"


def test_conversation() -> None:
    """The echo model repeats the last message of the user, with instructions that its template has no place for."""
    out = run("conversation.py", "echo", typed="One.\nTwo.\n\n")
    assert out == "> Answer in one short sentence.\n\nOne.\n> Two.\n> "


def test_stream_async() -> None:
    out = run("stream_async.py", "echo")
    assert "Name a planet. -> Name a planet. (" in out
    assert "Name a river. -> Name a river. (" in out


def test_openai_client(serve: Servers) -> None:
    assert run("openai_client.py", serve().url) == "Say hello in French.\n"


@pytest.mark.model
@pytest.mark.parametrize("name", ["chat.py", "stream_async.py"])
@pytest.mark.slow(5)
def test_with_a_real_model(name: str, smollm2: str) -> None:
    assert len(run(name, smollm2)) > 20


def test_embeddings() -> None:
    assert len(run("embeddings.py", "echo").splitlines()) == 3


@pytest.mark.model
@pytest.mark.slow(3)
def test_embeddings_of_a_real_model_find_the_answer(minilm: str) -> None:
    assert "The spare key" in run("embeddings.py", minilm).splitlines()[0]


def test_classify_gives_each_letter_a_kind() -> None:
    lines = run("classify.py", "echo").splitlines()
    assert [line.split()[0] in ("repair", "bill", "contract") for line in lines] == [True] * 3


@pytest.mark.model
@pytest.mark.slow(5)
def test_the_shares_of_the_kinds_add_up_to_one(smollm2: str) -> None:
    """So of three, the largest is a third at least, however unlikely all of them are."""
    shares = [int(line.split()[1].removesuffix("%")) for line in run("classify.py", smollm2).splitlines()]

    assert len(shares) == 3
    assert all(33 <= share <= 100 for share in shares)


@pytest.mark.model
@pytest.mark.slow(6)
def test_a_model_that_calls_without_end_is_told_with_what_it_called(smollm2: str) -> None:
    result = started("tools.py", smollm2)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("pieces_in_stock {") == 3
    assert result.stderr.splitlines()[-1].startswith("Error: the model called tools in each of 4 answers")
    assert "Traceback" not in result.stderr


def test_extract_and_tools_run_without_a_model() -> None:
    """The echo model writes what the grammar leaves it; what it says of a result is the result."""
    assert run("extract.py", "echo").startswith("article=")
    assert run("tools.py", "echo").splitlines()[-1] in ("12", "0", "3")


@pytest.mark.model
@pytest.mark.slow(4)
def test_extract_makes_an_object(smollm2: str) -> None:
    assert "pieces=12" in run("extract.py", smollm2)
