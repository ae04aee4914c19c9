"""The loop of a program as the Codex CLI: requests of the same shape, against a model that calls a tool and answers.

The CLI itself is run by hand: docs/http-responses.md says how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import scripted
from support.live_server import Live, Servers

COMMAND = {
    "type": "function",
    "name": "exec_command",
    "description": "Runs a command.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]},
}
SPAWN = {"type": "function", "name": "spawn_agent", "strict": False, "parameters": {"type": "object", "properties": {}}}
OWN_AGENTS = {"type": "namespace", "name": "multi_agent_v1", "description": "Sub-agents.", "tools": [SPAWN]}
SEARCH = {"type": "web_search", "external_web_access": False}
SCRIPT = ["<think>\nI look.\n</think>\n\n" + scripted.called("exec_command", cmd="ls"), "There is notes.txt."]


@pytest.fixture
def codex(serve: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Live:
    for name, value in scripted.install(tmp_path, SCRIPT).items():
        monkeypatch.setenv(name, value)
    return serve(ctx=16384)


def said(role: str, text: str, number: int) -> dict[str, Any]:
    return {"type": "message", "id": f"msg_{number}", "role": role, "content": [{"type": "input_text", "text": text}]}


BEGIN = [
    said("developer", "You are a coding agent. " * 200, 0),
    said("developer", "Skills: none.", 1),
    said("user", "<environment_context><cwd>/work</cwd></environment_context>", 2),
    said("user", "List the files.", 3),
]


def turn(live: Live, items: list[Any]) -> list[Any]:
    """The events of a request as this program sends it."""
    body = {
        "model": "edgellm",
        "input": items,
        "tools": [COMMAND, OWN_AGENTS, SEARCH],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2",
        "client_metadata": {"session_id": "01a2"},
    }
    answer = live.post("/v1/responses", body, headers={"accept": "text/event-stream", "originator": "codex_exec"})
    assert answer.status_code == 200, answer.text
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]


def sent_back(item: dict[str, Any]) -> dict[str, Any]:
    """An item as this program keeps it: of thoughts, not the text itself."""
    return {name: value for name, value in item.items() if name not in ("status", "content")}


def test_a_loop_with_a_tool(codex: Live) -> None:
    first = turn(codex, BEGIN)[-1]["response"]
    thought, call = first["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "notes.txt"}
    second = turn(codex, [*BEGIN, sent_back(thought), sent_back(call), result])[-1]["response"]

    assert (call["name"], json.loads(call["arguments"])) == ("exec_command", {"cmd": "ls"})
    assert thought["summary"][0]["text"] == "I look."
    assert thought["encrypted_content"]
    assert second["output"][0]["content"][0]["text"] == "There is notes.txt."
    assert second["usage"]["input_tokens_details"]["cached_tokens"] >= first["usage"]["input_tokens"]


def test_thoughts_that_come_back_are_in_the_prompt(codex: Live) -> None:
    """All that the model wrote is reused, its thoughts too."""
    first = turn(codex, BEGIN)[-1]["response"]
    thought, call = first["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "notes.txt"}
    second = turn(codex, [*BEGIN, sent_back(thought), sent_back(call), result])[-1]["response"]
    written = first["usage"]["input_tokens"] + first["usage"]["output_tokens"]

    assert second["usage"]["input_tokens_details"]["cached_tokens"] >= written - 2
