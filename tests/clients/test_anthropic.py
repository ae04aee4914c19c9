"""Anthropic's official client, unmodified."""

from __future__ import annotations

from typing import Any, Literal, get_args

import anthropic
import pytest
from anthropic.types import beta
from pydantic import BaseModel

HELLO = [{"role": "user", "content": "Say hello."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Bonn", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Tell the weather.", "input_schema": SCHEMA}
ONE = {"type": "any", "disable_parallel_tool_use": True}


class Place(BaseModel):
    colour: Literal["red", "green"]
    big: bool


def client(server: Any, kind: type[Any] = anthropic.Anthropic) -> Any:
    return kind(base_url=server.url.removesuffix("/v1"), api_key="none", max_retries=0)


def create(server: Any, **fields: Any) -> Any:
    drawn = {"extra_body": {"seed": 1, "temperature": 0.5}}
    return client(server).messages.create(
        model=server.model, **{"messages": HELLO, "max_tokens": 300, **drawn, **fields}
    )


def test_an_answer(server: Any) -> None:
    answer = create(server, max_tokens=20, system="Be brief.", metadata={"user_id": "u"}, service_tier="auto")

    assert answer._request_id
    assert answer.content[0].text
    assert answer.role == "assistant"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.output_tokens <= 20
    assert answer.usage.cache_read_input_tokens >= 0


def test_an_answer_goes_back_as_it_came(server: Any) -> None:
    first = create(server, max_tokens=20)
    for content in (first.content, [block.model_dump() for block in first.content]):
        sent = [*HELLO, {"role": "assistant", "content": content}, {"role": "user", "content": "Again."}]
        assert create(server, messages=sent, max_tokens=5).content


def test_the_stream_helper(server: Any) -> None:
    fields = {"model": server.model, "messages": HELLO, "max_tokens": 20, "extra_body": {"seed": 1}}
    with client(server).messages.stream(**fields) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()

    assert text == final.content[0].text
    assert final.stop_reason in ("end_turn", "max_tokens")
    assert final.usage.input_tokens + final.usage.cache_read_input_tokens > 0
    assert not server.is_echo or text == create(server, max_tokens=20).content[0].text


def test_raw_events(server: Any) -> None:
    kinds = [event.type for event in create(server, max_tokens=5, stream=True)]

    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])


def test_stop_sequences(server: Any) -> None:
    """The schema has the word written by every model."""
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    answer = create(server, output_config=form, stop_sequences=["END", "city"])

    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "city")
    assert answer.content[0].text.strip('{" \t\n') == ""


def test_a_loop_with_tools(server: Any) -> None:
    called = create(server, tools=[WEATHER], tool_choice=ONE)
    (call,) = [block for block in called.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sunny."}]}
    sent = [*HELLO, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    answer = create(server, messages=sent, tools=[WEATHER], tool_choice={"type": "none"}, max_tokens=10)

    assert called.stop_reason == "tool_use"
    assert (call.name, call.input["city"] in ("Bonn", "Rome")) == ("weather", True)
    assert answer.content[0].type == "text"


def test_a_tool_in_a_stream(server: Any) -> None:
    fields = {"model": server.model, "messages": HELLO, "max_tokens": 80, "extra_body": {"seed": 1}}
    with client(server).messages.stream(tools=[WEATHER], tool_choice=ONE, **fields) as stream:
        kinds = {event.type for event in stream}
        (call,) = [block for block in stream.get_final_message().content if block.type == "tool_use"]

    assert "input_json" in kinds
    assert call.input["city"] in ("Bonn", "Rome")


def test_the_tool_runner_of_the_client(server: Any) -> None:
    @anthropic.beta_tool
    def weather(city: Literal["Bonn", "Rome"]) -> str:
        """Tell the weather."""
        return f"Sunny in {city}."

    runner = client(server).beta.messages.tool_runner(
        model=server.model, max_tokens=80, messages=HELLO, tools=[weather], tool_choice=ONE, max_iterations=2
    )
    first, second = list(runner)

    assert (first.stop_reason, second.stop_reason) == ("tool_use", "tool_use")


def test_parsed_into_a_model(server: Any) -> None:
    answer = client(server).messages.parse(
        model=server.model, messages=HELLO, max_tokens=300, output_format=Place, extra_body={"seed": 1}
    )

    assert isinstance(answer.parsed_output, Place)


@pytest.mark.parametrize(
    "thinking", [{"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}]
)
def test_thinking(server: Any, thinking: dict[str, Any]) -> None:
    """Neither model thinks, and neither minds."""
    answer = create(server, thinking=thinking, max_tokens=20, output_config={"effort": "low"})

    assert answer.content[-1].type == "text"


def test_tools_of_anthropic(server: Any) -> None:
    tools = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 1000},
        {"type": "web_search_20260318", "name": "web_search", "max_uses": 1},
    ]
    raw = client(server).messages.with_raw_response.create(
        model=server.model, messages=HELLO, max_tokens=5, tools=tools, tool_choice={"type": "none"}
    )

    assert raw.headers["x-edgellm-ignored"] == "tools[].web_search_20260318"
    assert raw.parse().content


def test_beta(server: Any) -> None:
    answer = client(server).beta.messages.create(
        model=server.model,
        messages=[*HELLO, {"role": "system", "content": "Be brief."}],
        max_tokens=5,
        betas=["context-management-2025-06-27"],
        context_management={"edits": []},
    )
    assert answer.content


def test_tokens_are_counted(server: Any) -> None:
    counted = client(server).messages.count_tokens(model=server.model, messages=HELLO, tools=[WEATHER])
    usage = create(server, tools=[WEATHER], max_tokens=1).usage

    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"max_tokens": 0}, anthropic.BadRequestError),
        ({"model": "claude-opus-4"}, anthropic.NotFoundError),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError),
    ],
)
def test_errors_are_the_client_s_classes(server: Any, fields: dict[str, Any], kind: type[Any]) -> None:
    with pytest.raises(kind) as caught:
        client(server).messages.create(**{"model": server.model, "messages": HELLO, "max_tokens": 9, **fields})
    assert caught.value.body["error"]["message"]


async def _streamed(server: Any) -> str:
    own = client(server, anthropic.AsyncAnthropic)
    async with own, own.messages.stream(model=server.model, messages=HELLO, max_tokens=20) as stream:
        return "".join([text async for text in stream.text_stream])


def test_the_async_client(server: Any) -> None:
    import asyncio

    assert asyncio.run(_streamed(server))


# A schema of the server's document, and the types of the client that it reads.
TYPES: dict[str, tuple[Any, ...]] = {
    "AnthropicMessagesBody": (
        anthropic.types.message_create_params.MessageCreateParamsNonStreaming,
        anthropic.types.message_create_params.MessageCreateParamsStreaming,
        beta.message_create_params.MessageCreateParamsNonStreaming,
    ),
    "AnthropicCountBody": (
        anthropic.types.MessageCountTokensParams,
        beta.message_count_tokens_params.MessageCountTokensParams,
    ),
    "AnthropicMessage": (*get_args(anthropic.types.MessageParam), *get_args(beta.BetaMessageParam)),
    "AnthropicBlock": (
        anthropic.types.TextBlockParam,
        anthropic.types.ThinkingBlockParam,
        anthropic.types.RedactedThinkingBlockParam,
        anthropic.types.ToolUseBlockParam,
        anthropic.types.ToolResultBlockParam,
        beta.BetaTextBlockParam,
        beta.BetaThinkingBlockParam,
        beta.BetaToolUseBlockParam,
        beta.BetaToolResultBlockParam,
    ),
    "AnthropicTextBlock": (anthropic.types.TextBlockParam, beta.BetaTextBlockParam),
    "AnthropicResultBlock": (
        anthropic.types.TextBlockParam,
        anthropic.types.ToolReferenceBlockParam,
        beta.BetaTextBlockParam,
        beta.BetaToolReferenceBlockParam,
    ),
    "AnthropicTool": (*get_args(anthropic.types.ToolUnionParam), *get_args(beta.BetaToolUnionParam)),
    "AnthropicToolChoice": (*get_args(anthropic.types.ToolChoiceParam), *get_args(beta.BetaToolChoiceParam)),
    "AnthropicThinking": (*get_args(anthropic.types.ThinkingConfigParam), *get_args(beta.BetaThinkingConfigParam)),
    "AnthropicOutputConfig": (anthropic.types.OutputConfigParam, beta.BetaOutputConfigParam),
    "AnthropicFormat": (anthropic.types.JSONOutputFormatParam, beta.BetaJSONOutputFormatParam),
}


@pytest.mark.parametrize("name", TYPES)
def test_each_field_of_the_client_is_in_a_list(schemas: dict[str, Any], name: str) -> None:
    """A new release of the client with a new field fails here: say what becomes of it."""
    names = {field for type_ in TYPES[name] for field in type_.__annotations__}

    assert names
    assert names - schemas[name]["properties"].keys() == set()
