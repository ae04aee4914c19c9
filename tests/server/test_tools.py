"""Tools in a body, and calls in an answer."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from support.live_server import Live
from support.refusals import refuses

from edgellm.errors import UnsupportedField, UsageError
from edgellm.server.schemas.chat import ChatBody
from edgellm.types.message import NamedTool, Tool

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it", "parameters": SCHEMA}}
TIME = {"type": "function", "function": {"name": "time", "strict": True}}


def wanted(**fields: Any) -> tuple[tuple[Tool, ...], Any]:
    body = {"messages": [{"role": "user", "content": "hello"}], **fields}
    return ChatBody.read(json.dumps(body).encode()).wanted_tools()


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def with_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_as_deep_as_is_allowed() -> None:
    assert wanted(tools=[with_schema(nested(62)), named("größe"), named("mcp/files.read:v2-x_y")])


@pytest.mark.parametrize("arguments", ["", "{", "[" * 100_000, '{"a": 1e999}', "\x00", '"\\ud800"', "\U0010ffff"])
def test_arguments_in_the_history_may_be_anything(live: Live, arguments: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "user", "content": "hello"}]

    assert live.post("/v1/chat/completions", {"messages": messages}).status_code in (200, 400)


def test_functions_become_tools() -> None:
    tools, choice = wanted(tools=[WEATHER, TIME])

    assert tools == (Tool("weather", "Tells it", SCHEMA), Tool("time", strict=True))
    assert choice == "auto"


@pytest.mark.parametrize(
    ("choice", "names", "wants"),
    [
        ("none", ["weather", "time"], "none"),
        ("required", ["weather", "time"], "required"),
        (named("time"), ["weather", "time"], NamedTool("time")),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("time")]}},
            ["time"],
            "required",
        ),
    ],
)
def test_choices(choice: object, names: list[str], wants: object) -> None:
    tools, chosen = wanted(tools=[WEATHER, TIME], tool_choice=choice)

    assert [tool.name for tool in tools] == names
    assert chosen == wants


@pytest.mark.parametrize(
    ("choice", "wants"),
    [(None, "auto"), ("none", "none"), ("auto", "auto"), ({"name": "weather"}, NamedTool("weather"))],
)
def test_the_older_functions_are_tools(choice: object, wants: object) -> None:
    tools, chosen = wanted(functions=[WEATHER["function"]], function_call=choice)

    assert tools == (Tool("weather", "Tells it", SCHEMA),)
    assert chosen == wants


@pytest.mark.parametrize(
    ("fields", "parallel"),
    [
        ({"tools": [TIME]}, True),
        ({"tools": [TIME], "parallel_tool_calls": False}, False),
        ({"functions": [TIME["function"]]}, False),  # an answer has room for one function_call
    ],
)
def test_whether_an_answer_may_have_several_calls(fields: dict[str, Any], parallel: bool) -> None:
    body = ChatBody.read(json.dumps({"messages": [{"role": "user", "content": "hello"}], **fields}).encode())
    llm: Any = SimpleNamespace(request=lambda _, **options: options)
    (options,) = body.to_requests(llm)

    assert options["parallel_tool_calls"] is parallel  # type: ignore[index]


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, UnsupportedField, "tools[0].type"),
        (
            {"tools": [TIME], "tool_choice": {"type": "custom", "custom": {"name": "f"}}},
            UnsupportedField,
            "tool_choice.type",
        ),
        ({"tools": [TIME], "functions": [TIME["function"]]}, UsageError, "functions"),
        ({"tools": [TIME], "tool_choice": {"type": "function"}}, UsageError, "tool_choice.function"),
        ({"tools": [TIME], "tool_choice": {"type": "allowed_tools"}}, UsageError, "tool_choice.allowed_tools"),
        (
            {
                "tools": [TIME],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("x")]}},
            },
            UsageError,
            "tool_choice.allowed_tools",
        ),
        ({"tools": [TIME] * 129}, UsageError, "tools"),
        ({"tools": [named("a b")]}, UsageError, "tools"),
        ({"tools": [named("<|im_end|>")]}, UsageError, "tools"),
        ({"tools": [named("x" * 129)]}, UsageError, "tools"),
        ({"tools": [with_schema({"description": "x" * 70_000})]}, UsageError, "tools"),
        ({"tools": [with_schema(nested(64))]}, UsageError, "tools"),
    ],
)
def test_what_is_no_tool_is_refused(fields: dict[str, Any], kind: type[UsageError], param: str) -> None:
    with refuses(kind, param=param):
        wanted(**fields)
