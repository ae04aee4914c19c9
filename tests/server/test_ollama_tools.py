"""A loop with a tool as Ollama's clients have it: results that name no call, against a model that thinks and calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import scripted
from support.live_server import Live, Servers

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SCRIPT = ["<think>\nI look.\n</think>\n\n" + scripted.called("weather", city="Köln"), "Sunny."]
BEGIN = [{"role": "system", "content": "Be brief. " * 50}, {"role": "user", "content": "How is it?"}]


@pytest.fixture
def thoughtful(serve: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Live:
    for name, value in scripted.install(tmp_path, SCRIPT).items():
        monkeypatch.setenv(name, value)
    return serve()


def lines(live: Live, messages: list[Any], **fields: Any) -> list[Any]:
    answer = live.post("/api/chat", {"model": "echo", "messages": messages, "tools": [WEATHER], **fields})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_loop_with_a_tool(thoughtful: Live) -> None:
    parts = [line["message"] for line in lines(thoughtful, BEGIN)]
    thought = "".join(part.get("thinking", "") for part in parts)
    (call,) = [call for part in parts for call in part.get("tool_calls", [])]
    # Older clients keep no id.
    asked = {"role": "assistant", "content": "", "thinking": thought, "tool_calls": [{"function": call["function"]}]}
    result = {"role": "tool", "content": "Sunny", "tool_name": "weather"}
    (second,) = lines(thoughtful, [*BEGIN, asked, result], stream=False)

    assert (thought, call["function"]["arguments"]) == ("I look.", {"city": "Köln"})
    assert second["message"]["content"] == "Sunny."


def test_the_whole_answer_is_the_same(thoughtful: Live) -> None:
    (whole,) = lines(thoughtful, BEGIN, stream=False)

    assert whole["message"]["thinking"] == "I look."
    assert whole["message"]["tool_calls"][0]["function"] == {
        "index": 0,
        "name": "weather",
        "arguments": {"city": "Köln"},
    }
    assert whole["done_reason"] == "stop"


def test_what_the_template_can_is_told(thoughtful: Live) -> None:
    shown = thoughtful.post("/api/show", {"model": "echo"}).json()

    assert shown["capabilities"] == ["completion", "tools", "thinking", "embedding"]
    assert shown["template"] == scripted.TEMPLATE


def test_the_oldest_messages_go_where_all_are_too_long_unless_asked(thoughtful: Live) -> None:
    long = [{"role": role, "content": "x" * 1500} for _ in range(2) for role in ("user", "assistant")]
    (answer,) = lines(thoughtful, [*long, BEGIN[1]], stream=False)
    refused = thoughtful.post("/api/chat", {"messages": [*long, BEGIN[1]], "truncate": False})

    assert answer["notes"] == ["messages_dropped: 2"]
    assert refused.status_code == 400
