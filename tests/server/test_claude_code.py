"""The loop of a program as Claude Code: requests of the same shape, against a model that calls a tool and answers.

The program itself is run by hand: docs/http-anthropic.md says how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import scripted
from support.live_server import Live, Servers

PATH = "/v1/messages?beta=true"
MARK = {"cache_control": {"type": "ephemeral"}}
ONE_TEXT = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
BASH = {"name": "Bash", "description": "Runs a command. " * 100, "input_schema": ONE_TEXT}
LOOK_UP = {"name": "ToolSearch", "description": "Looks up tools.", "input_schema": ONE_TEXT}
DEFERRED = {"name": "WebFetch", "description": "Reads a page.", "input_schema": ONE_TEXT, "defer_loading": True}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
SCRIPT = ["<think>\nI look.\n</think>\n\nI run it." + scripted.called("Bash", command="ls"), "There is notes.txt."]
RULES = "You are a coding agent. " * 200
PLACE = "# Environment\nThe working directory is /work."
ASKED = {"role": "user", "content": [{"type": "text", "text": "<note/>"}, {"type": "text", "text": "List the files."}]}
HEADERS = {
    "authorization": "Bearer none",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-app": "cli",
}


@pytest.fixture
def claude(serve: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Live:
    for name, value in scripted.install(tmp_path, SCRIPT).items():
        monkeypatch.setenv(name, value)
    return serve(ctx=16384)


def place(*, last: bool) -> dict[str, Any]:
    """A message that this program sends as blocks where it is the last, and as text later."""
    return {"role": "system", "content": [{"type": "text", "text": PLACE, **MARK}] if last else PLACE}


def body(messages: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "model": "edgellm",
        "messages": messages,
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={len(messages):05x};"},
            {"type": "text", "text": RULES, **MARK},
        ],
        "tools": [BASH, LOOK_UP, SEARCH],
        "metadata": {"user_id": "{}"},
        "max_tokens": 8192,
        "thinking": {"type": "adaptive", "display": "updates"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
        **more,
    }


def turn(live: Live, messages: list[Any], **more: Any) -> tuple[list[Any], dict[str, int], httpx.Response]:
    """The blocks of an answer as this program puts them together, and what it cost."""
    answer = live.post(PATH, body(messages, **more), headers=HEADERS)
    assert answer.status_code == 200, answer.text
    blocks: list[Any] = []
    usage: dict[str, int] = {}
    written = ""
    for line in answer.text.splitlines():
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
            written = ""
        elif event["type"] == "content_block_delta":
            for name in {"text", "thinking", "signature"} & event["delta"].keys():
                blocks[-1][name] = blocks[-1].get(name, "") + event["delta"][name]
            written += event["delta"].get("partial_json", "")
        elif event["type"] == "content_block_stop" and written:
            blocks[-1]["input"] = json.loads(written)
        elif event["type"] == "message_delta":
            usage = event["usage"]
    return blocks, usage, answer


def result(blocks: list[Any], content: Any) -> list[Any]:
    """What this program sends after the first turn."""
    returned = {"tool_use_id": blocks[-1]["id"], "type": "tool_result", "content": content, "is_error": False, **MARK}
    return [
        ASKED,
        place(last=False),
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": [returned]},
    ]


def test_a_loop_with_a_tool(claude: Live) -> None:
    blocks, first, answer = turn(claude, [ASKED, place(last=True)])
    said, second, _ = turn(claude, result(blocks, "notes.txt"))

    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
    assert (blocks[0]["thinking"], bool(blocks[0]["signature"])) == ("I look.", True)
    assert (blocks[2]["name"], blocks[2]["input"]) == ("Bash", {"command": "ls"})
    assert [block["text"] for block in said] == ["There is notes.txt."]
    assert second["cache_read_input_tokens"] >= first["input_tokens"]
    assert answer.headers["x-edgellm-ignored"] == "tools[].web_search_20250305"


def test_a_tool_that_is_looked_up(claude: Live) -> None:
    blocks, *_ = turn(claude, [ASKED, place(last=True)])
    reference = [{"type": "tool_reference", "tool_name": "WebFetch"}]
    said, *_ = turn(claude, result(blocks, reference), tools=[BASH, LOOK_UP, DEFERRED])

    assert [block["text"] for block in said] == ["There is notes.txt."]


def test_what_a_conversation_costs_is_counted(claude: Live) -> None:
    """This program counts parts of its prompt, without `max_tokens`."""
    parts = {name: value for name, value in body([ASKED]).items() if name in ("model", "messages", "tools")}
    answer = claude.post("/v1/messages/count_tokens?beta=true", parts, headers=HEADERS)

    assert answer.status_code == 200
    assert answer.json()["input_tokens"] > len(BASH["description"])
