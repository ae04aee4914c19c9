"""Bodies of Anthropic's clients: what the model is asked for each."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from support.refusals import refuses

from edgellm.errors import UnsupportedField, UsageError
from edgellm.server.dialects.anthropic.body import AnthropicCountBody, AnthropicMessagesBody
from edgellm.server.schemas.unknown import UnknownFields
from edgellm.types.grammar import Grammar
from edgellm.types.message import Message, NamedTool, Tool, ToolCall
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

HELLO = {"role": "user", "content": "hello"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "Tells it", "input_schema": SCHEMA}
SEARCH = {"type": "web_search_20260318", "name": "web_search", "max_uses": 3}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln", "days": [1, 2]}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
REFERENCE = {"type": "tool_reference", "tool_name": "weather"}


def body(*messages: Any, **fields: Any) -> bytes:
    return json.dumps({"max_tokens": 9, "messages": list(messages) or [HELLO], **fields}).encode()


def read(*messages: Any, **fields: Any) -> AnthropicMessagesBody:
    return AnthropicMessagesBody.read(body(*messages, **fields), UnknownFields())


def asked(*messages: Any, **fields: Any) -> dict[str, Any]:
    """The arguments of `EdgeLLM.request`, and the budget of the request that comes of it."""
    arguments: dict[str, Any] = {}

    def request(conversation: list[Message], **options: Any) -> GenerationRequest:
        arguments.update(messages=conversation, **options)
        return GenerationRequest("hello")

    llm: Any = SimpleNamespace(request=request)
    (generation,) = read(*messages, **fields).to_requests(llm)
    return {**arguments, "budget": generation.reasoning_budget}


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


@pytest.mark.parametrize(
    ("sent", "messages"),
    [
        ([HELLO], [Message("user", "hello")]),
        ([user(text("a", cache_control={"type": "ephemeral"}), text("b"))], [Message("user", "ab")]),
        (
            [HELLO, assistant(text("I look."), CALL), user(RESULT)],
            [
                Message("user", "hello"),
                Message(
                    "assistant", "I look.", calls=(ToolCall("weather", '{"city": "Köln", "days": [1, 2]}', "toolu_1"),)
                ),
                Message("tool", "rain", call_id="toolu_1"),
            ],
        ),
        (
            [user({**RESULT, "content": [text("no "), text("rain")], "is_error": True}, text("So?"))],
            [Message("tool", "Error: no rain", call_id="toolu_1"), Message("user", "So?")],
        ),
        (
            [user({**RESULT, "content": [REFERENCE, {**REFERENCE, "tool_name": "time"}]})],
            [Message("tool", "The tool weather can be called.\nThe tool time can be called.\n", call_id="toolu_1")],
        ),
        (
            [user(text("First"), {"type": "tool_result", "tool_use_id": "1"})],
            [Message("user", "First"), Message("tool", "", call_id="1")],
        ),
        (
            [
                HELLO,
                assistant(
                    {"type": "thinking", "thinking": "Hm.", "signature": "any"},
                    {"type": "redacted_thinking", "data": "any"},
                    text("Yes", citations=None),
                ),
                user(text("Go on")),
            ],
            [Message("user", "hello"), Message("assistant", "Yes", "Hm."), Message("user", "Go on")],
        ),
        (
            [HELLO, {"role": "system", "content": "Be brief."}, {"role": "system", "content": [text("Now.")]}],
            [Message("user", "hello"), Message("system", "Be brief."), Message("system", "Now.")],
        ),
    ],
)
def test_messages_become_those_of_the_core(sent: list[Any], messages: list[Message]) -> None:
    assert asked(*sent)["messages"] == messages


def test_a_system_message_may_be_for_one_turn() -> None:
    note = {"role": "system", "content": "Brief.", "clear_at": "next_user_message"}

    assert [message.role for message in asked(HELLO, note)["messages"]] == ["user", "system"]
    assert [message.role for message in asked(note, HELLO, assistant(text("a")), HELLO)["messages"]] == [
        "user",
        "assistant",
        "user",
    ]
    kept = {**note, "clear_at": "never"}
    assert len(asked(kept, HELLO)["messages"]) == 2


@pytest.mark.parametrize(
    ("system", "shown"),
    [
        ("Be brief.", ["Be brief."]),
        ([text("Be "), text("brief.")], ["Be brief."]),
        ([text("x-anthropic-billing-header: cc_version=2; cch=1f3a;"), text("Be brief.")], ["Be brief."]),
        ([text("x-anthropic-billing-header: cch=1;")], []),
        ([], []),
        ("", []),
        (None, []),
    ],
)
def test_the_system_prompt_is_the_first_message(system: object, shown: list[str]) -> None:
    assert asked(system=system)["messages"] == [
        *(Message("system", words) for words in shown),
        Message("user", "hello"),
    ]


def test_an_answer_goes_on_in_the_last_message() -> None:
    opened = asked(HELLO, {"role": "assistant", "content": "Once"})

    assert (opened["continue_final_message"], opened["add_generation_prompt"]) == (True, False)
    assert (asked()["continue_final_message"], asked()["add_generation_prompt"]) == (False, True)


def test_tools() -> None:
    given = asked(tools=[WEATHER, {**WEATHER, "name": "strict", "type": "custom", "strict": True}, SEARCH])

    assert given["tools"] == [Tool("weather", "Tells it", SCHEMA), Tool("strict", "Tells it", SCHEMA, strict=True)]
    assert (given["tool_choice"], given["parallel_tool_calls"]) == ("auto", True)


@pytest.mark.parametrize(
    ("kind", "name", "parameters"),
    [
        ("bash_20250124", "bash", {"command", "restart"}),
        ("text_editor_20241022", "str_replace_editor", {"new_str", "view_range"}),
        ("text_editor_20250124", "str_replace_editor", {"new_str", "view_range"}),
        ("text_editor_20250429", "str_replace_based_edit_tool", {"insert_text", "new_str"}),
        ("text_editor_20250728", "str_replace_based_edit_tool", {"insert_text", "new_str"}),
        ("memory_20250818", "memory", {"command", "old_path", "new_path"}),
    ],
)
def test_tools_of_the_client_are_shown_with_their_schema(kind: str, name: str, parameters: set[str]) -> None:
    (tool,) = asked(tools=[{"type": kind, "name": name, "cache_control": {"type": "ephemeral"}}])["tools"]

    assert (tool.name, bool(tool.description)) == (name, True)
    assert parameters <= tool.parameters["properties"].keys()
    assert {*tool.parameters["required"]} <= tool.parameters["properties"].keys()
    undoes = "undo_edit" in tool.parameters["properties"]["command"].get("enum", ())
    assert undoes == (name == "str_replace_editor")


@pytest.mark.parametrize(
    ("choice", "wants", "parallel"),
    [
        (None, "auto", True),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "any", "disable_parallel_tool_use": False}, "required", True),
        ({"type": "tool", "name": "weather"}, NamedTool("weather"), True),
        ({"type": "none"}, "none", True),
    ],
)
def test_choices(choice: object, wants: object, parallel: bool) -> None:
    given = asked(tools=[WEATHER, SEARCH], tool_choice=choice)

    assert (given["tool_choice"], given["parallel_tool_calls"]) == (wants, parallel)


@pytest.mark.parametrize(
    ("fields", "thinks", "effort", "budget"),
    [
        ({}, None, None, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True, None, 1024),
        ({"thinking": {"type": "enabled"}}, True, None, None),
        ({"thinking": {"type": "adaptive", "budget_tokens": 5}}, True, None, None),
        ({"thinking": {"type": "disabled"}}, False, None, None),
        ({"thinking": {"type": "between_tools"}}, False, None, None),
        ({"output_config": {"effort": "low"}}, None, "low", None),
        ({"output_config": {"effort": "max"}, "thinking": {"type": "adaptive"}}, True, "max", None),
        ({"output_config": {"effort": "high"}, "thinking": {"type": "disabled"}}, False, None, None),
    ],
)
def test_thinking(fields: dict[str, Any], thinks: object, effort: object, budget: object) -> None:
    given = asked(**fields)

    assert (given["thinking"], given["reasoning_effort"], given["budget"]) == (thinks, effort, budget)


def test_thinking_between_tools() -> None:
    assert asked(assistant(CALL), user(RESULT), thinking={"type": "between_tools"})["thinking"] is True


@pytest.mark.parametrize(
    "fields",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    ],
)
def test_a_schema(fields: dict[str, Any]) -> None:
    assert asked(**fields)["grammar"].text == Grammar.of_schema(SCHEMA, "").text


def test_settings() -> None:
    given = asked(temperature=0, top_p=0.5, top_k=3, seed=1, stop_sequences=["a", "b"], stream=True)

    assert given["sampling"] == Sampling(temperature=0, top_p=0.5, top_k=3, seed=1)
    assert (given["stop"], given["max_tokens"], given["progress"]) == (("a", "b"), 9, True)
    assert (asked()["sampling"], asked()["stop"], asked()["progress"]) == (Sampling(), (), False)


def test_what_has_no_effect_is_named_and_what_is_about_the_caller_is_not() -> None:
    unknown = UnknownFields()
    about = {"metadata": {"user_id": "u"}, "service_tier": "auto", "speed": "fast", "context_management": {}}
    AnthropicMessagesBody.read(body(tools=[SEARCH, WEATHER, {"type": "computer_toolset_20260801"}], **about), unknown)

    assert unknown.text == "tools[].web_search_20260318, tools[].computer_toolset_20260801"


def test_what_says_how_to_answer_may_stand_where_tokens_are_counted() -> None:
    unknown = UnknownFields(strict=True)

    assert AnthropicCountBody.read(body(stream=True, temperature=1, stop_sequences=["x"]), unknown)


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"messages": [user(IMAGE)]}, UnsupportedField, "messages[0].content[0].type"),
        (
            {"messages": [user({**RESULT, "content": [text("a"), IMAGE]})]},
            UnsupportedField,
            "messages[0].content[0].content[1].type",
        ),
        ({"messages": [user(CALL)]}, UsageError, "messages[0].content[0].type"),
        ({"messages": [HELLO, assistant(RESULT)]}, UsageError, "messages[1].content[0].type"),
        ({"messages": [{"role": "system", "content": [CALL]}]}, UsageError, "messages[0].content[0].type"),
        ({"messages": [user({"type": "text"})]}, UsageError, "messages[0].content[0].text"),
        ({"messages": [assistant({**CALL, "input": None})]}, UsageError, "messages[0].content[0].input"),
        ({"messages": [assistant({**CALL, "input": "{}"})]}, UsageError, "messages[0].content[0].input"),
        ({"messages": [HELLO, assistant(CALL)]}, UsageError, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, UsageError, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, UsageError, "messages[0].content"),
        ({"max_tokens": None}, UsageError, "max_tokens"),
        ({"tools": [{"name": "f"}]}, UsageError, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, UsageError, "tools[0].name"),
        ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, UnsupportedField, "tool_choice.type"),
        (
            {"tools": [SEARCH, WEATHER], "tool_choice": {"type": "tool", "name": "web_search"}},
            UnsupportedField,
            "tool_choice.name",
        ),
        ({"tool_choice": {"type": "tool"}}, UsageError, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, UsageError, "thinking.budget_tokens"),
        ({"thinking": {"type": "maybe"}}, UsageError, "thinking.type"),
        ({"output_config": {"effort": "huge"}}, UsageError, "output_config.effort"),
        (
            {"output_config": {"format": {"type": "grammar", "schema": {}}}},
            UnsupportedField,
            "output_config.format.type",
        ),
        ({"container": "c_1"}, UnsupportedField, "container"),
        ({"mcp_servers": [{"url": "x"}]}, UnsupportedField, "mcp_servers"),
        (
            {"messages": [user(text("a"), {**RESULT, "content": [text("a"), {"type": "tool_reference"}]})]},
            UsageError,
            "messages[0].content[1].content[1].tool_name",
        ),
        (
            {"messages": [user({**RESULT, "content": [{"type": "text"}]})]},
            UsageError,
            "messages[0].content[0].content[0].text",
        ),
    ],
)
def test_refusals(fields: dict[str, Any], kind: type[UsageError], param: str) -> None:
    with refuses(kind, param=param):
        asked(*fields.pop("messages", ()), **fields)
