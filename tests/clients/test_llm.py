"""The program and library `llm`, told of the server by what `edgellm client-config llm` writes."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llm
import pytest
from pydantic import BaseModel, ConfigDict, Field


class Place(BaseModel):
    """A model that knows nothing would go on with properties of its own."""

    model_config = ConfigDict(extra="forbid")
    size: int = Field(ge=0, le=9)


@functools.cache
def lines(url: str, model: str) -> str:
    command = [os.environ["EDGELLM"], "client-config", "llm", "--url", url, "--model", model]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def user_path(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """llm's folder of a user who did what `edgellm client-config llm` says."""
    (tmp_path / "extra-openai-models.yaml").write_text(lines(server.root, server.model))
    (tmp_path / "keys.json").write_text('{"edgellm": "none"}')
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    return tmp_path


def ask(prompt: str, **fields: Any) -> Any:
    return llm.get_model("edgellm").prompt(prompt, **{"max_tokens": 200, "seed": 1, **fields})


def test_a_prompt(server: Any, user_path: Path) -> None:
    response = ask("Say hello.", system="Be brief.", stream=False)

    assert response.text()
    assert response.usage().output


def test_a_stream(server: Any, user_path: Path) -> None:
    assert "".join(ask("Say hello.")) == ask("Say hello.", stream=False).text() or not server.is_echo


def test_a_schema(server: Any, user_path: Path) -> None:
    assert Place.model_validate_json(ask("Where?", schema=Place).text())


def test_a_conversation(server: Any, user_path: Path) -> None:
    conversation = llm.get_model("edgellm").conversation()

    assert conversation.prompt("Say hello.", max_tokens=20).text()
    assert conversation.prompt("Again.", max_tokens=20).text()


def test_tools(server: Any, user_path: Path) -> None:
    """The model chooses whether it calls."""

    def weather(city: str) -> str:
        """Tell the weather."""
        return f"Sunny in {city}."

    conversation = llm.get_model("edgellm").conversation(chain_limit=3)
    try:
        text = conversation.chain("How is it?", tools=[weather], options={"max_tokens": 20}).text()
    except ValueError:  # the model went on calling
        text = conversation.responses[-1].text_or_raise()

    assert isinstance(text, str)


def test_the_program(server: Any, user_path: Path) -> None:
    schema, drawn = json.dumps(Place.model_json_schema()), ["-o", "seed", "1", "-o", "max_tokens", "200"]
    for options in ([], ["--no-stream", "--schema", schema]):
        command = [sys.executable, "-m", "llm", "-m", "edgellm", "Say hello.", *drawn, *options]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
