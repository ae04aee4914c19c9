"""Tools in a body, and calls in an answer."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from support.live_server import Live
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.server.schemas.chat import ChatBody
from edgellm.types.message import NamedTool, TextInput, Tool, ToolCall

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it", "parameters": SCHEMA}}
TIME = {"type": "function", "function": {"name": "time", "strict": True}}
COMMAND = '(ls|cat) [a-z]{1,8}( "\\n)?'
LINES = 'start: ("+" /[a-z]{1,4}/ LF)~1..3\n%import common.LF'


def wanted(**fields: Any) -> tuple[tuple[Tool, ...], Any]:
    body = {"messages": [{"role": "user", "content": "hello"}], **fields}
    return ChatBody.read(json.dumps(body).encode()).wanted_tools()


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def grammar(definition: str, syntax: str) -> dict[str, Any]:
    return {"type": "grammar", "grammar": {"definition": definition, "syntax": syntax}}


def custom(name: str = "shell", **fields: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name, **fields}}


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
        (custom(), ["weather", "time", "shell"], NamedTool("shell")),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [custom(), named("time")]}},
            ["time", "shell"],
            "auto",
        ),
    ],
)
def test_choices(choice: object, names: list[str], wants: object) -> None:
    offered = [WEATHER, TIME, custom()] if "custom" in json.dumps(choice) else [WEATHER, TIME]
    tools, chosen = wanted(tools=offered, tool_choice=choice)

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
        ({"tools": [{"type": "function"}]}, UsageError, "tools[0].function"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, UsageError, "tools[0].custom"),
        ({"tools": [custom(format={"type": "grammar"})]}, UsageError, "tools[0].custom.format.grammar"),
        ({"tools": [custom(format=grammar("", "regex"))]}, UsageError, "tools"),
        ({"tools": [custom(format=grammar("x" * 70_000, "lark"))]}, UsageError, "tools"),
        ({"tools": [custom(format=grammar("(" * 70, "regex"))]}, UsageError, "tools"),
        ({"tools": [custom(format=grammar("x", "gbnf"))]}, UsageError, "tools[0].custom.format.grammar.syntax"),
        ({"tools": [TIME], "tool_choice": {"type": "custom"}}, UsageError, "tool_choice.custom"),
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


@pytest.mark.parametrize(
    ("call", "param"),
    [
        ({}, "function"),
        ({"type": "function", "custom": {"name": "f"}}, "function"),
        ({"type": "custom", "function": {"name": "f"}}, "custom"),
    ],
)
def test_a_call_in_the_history_is_of_its_type(call: dict[str, Any], param: str) -> None:
    messages = [{"role": "assistant", "tool_calls": [call]}]
    with refuses(UsageError, param=f"messages[0].tool_calls[0].{param}"):
        ChatBody.read(json.dumps({"messages": messages}).encode()).conversation()


def test_a_custom_call_in_the_history_has_its_text_as_arguments() -> None:
    call = {"type": "custom", "id": "1", "custom": {"name": "shell", "input": 'ls "é"\n'}}
    body = {"messages": [{"role": "assistant", "tool_calls": [call]}]}
    (message,) = ChatBody.read(json.dumps(body).encode()).conversation()

    assert message.calls == (ToolCall("shell", '{"input": "ls \\"é\\"\\n"}', "1"),)


def test_a_custom_tool_is_one_that_takes_a_text() -> None:
    sent = [custom(), custom("cat", description="Shows it", format={"type": "text"})]
    sent += [custom("ls", format=grammar("a+", "regex")), custom("add", format=grammar(LINES, "lark"))]

    assert wanted(tools=sent)[0] == (
        Tool("shell", input=TextInput()),
        Tool("cat", "Shows it", input=TextInput()),
        Tool("ls", input=TextInput("a+")),
        Tool("add", input=TextInput(LINES, "lark")),
    )


def called(live: Live, **fields: Any) -> dict[str, Any]:
    answer = live.chat("Paris", seed=1, temperature=1.2, **fields)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    (call,) = choice["message"]["tool_calls"]
    return dict(call)


def streamed(live: Live, **fields: Any) -> list[dict[str, Any]]:
    """The parts of the one call."""
    answer = live.chat("Paris", seed=1, temperature=1.2, stream=True, **fields)
    data = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return [part for one in data for part in one["choices"][0]["delta"].get("tool_calls", [])]


@pytest.mark.parametrize(
    ("definition", "syntax", "pattern"),
    [(COMMAND, "regex", COMMAND), (f"^{COMMAND}$", "regex", COMMAND), (LINES, "lark", "([+][a-z]{1,4}\n){1,3}")],
)
def test_a_custom_call_keeps_to_its_format(live: Live, definition: str, syntax: str, pattern: str) -> None:
    asked = {"tools": [custom(format=grammar(definition, syntax))], "tool_choice": custom()}
    call = called(live, **asked)
    first, *others = streamed(live, **asked)

    assert call.keys() == {"id", "type", "custom"}
    assert (call["type"], call["custom"]["name"]) == ("custom", "shell")
    assert re.fullmatch(pattern, call["custom"]["input"])
    assert (first["type"], first["custom"]) == ("custom", {"name": "shell", "input": ""})
    assert len(others) > 1
    assert "".join(part["custom"]["input"] for part in others) == call["custom"]["input"]


def test_a_custom_call_goes_back(live: Live) -> None:
    asked = {"tools": [custom(format=grammar(COMMAND, "regex"))], "tool_choice": "required"}
    call = called(live, parallel_tool_calls=False, **asked)
    result = {"role": "tool", "tool_call_id": call["id"], "content": "some files"}
    messages = [{"role": "user", "content": "Look"}, {"role": "assistant", "tool_calls": [call]}, result]
    answer = live.post("/v1/chat/completions", {"messages": messages, "max_tokens": 5, **asked, "tool_choice": "none"})

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("definition", ['start: "(" start ")" | "x"', "start: ~/a/", "start: /(?=a)/"])
def test_a_grammar_that_calls_cannot_be_kept_to_is_refused(live: Live, definition: str) -> None:
    answer = live.chat("Paris", tools=[custom(format=grammar(definition, "lark"))])

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


def test_a_number_in_a_schema_that_cannot_be_sent_is_refused(live: Live) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "tools": [with_schema({"maximum": 10**30})]}
    answer = live.post("/v1/chat/completions", body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    assert live.llm.state == "ready"
