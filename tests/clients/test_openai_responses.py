"""OpenAI's own client speaks Responses, its newest release, unmodified."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, Field, TypeAdapter

HELLO = "Hello"
BRIEF: dict[str, Any] = {"temperature": 0, "max_output_tokens": 40, "extra_body": {"seed": 1}}
WEATHER = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
FORCED: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 200}


class City(BaseModel):
    name: str = Field(max_length=8)


def create(server: Any, **fields: Any) -> Any:
    return server.client().responses.create(model=server.model, **{"input": HELLO, **BRIEF, **fields})


def result(call: Any) -> dict[str, Any]:
    assert json.loads(call.arguments).keys() == {"city"}
    return {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}


def test_an_answer(server: Any) -> None:
    answer = create(server, instructions="Be brief.", metadata={"a": "b"}, store=False)

    Response.model_validate(answer.model_dump(warnings=False))
    assert answer.output_text
    assert answer.status in ("completed", "incomplete")
    assert answer.metadata == {"a": "b"}
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_stream(server: Any) -> None:
    events = list(create(server, stream=True, include=["message.output_text.logprobs"], top_logprobs=2))

    for event in events:
        TypeAdapter(ResponseStreamEvent).validate_python(event.model_dump(by_alias=True, warnings=False))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == events[-1].response.output_text
    assert all(event.logprobs for event in deltas if event.delta)


def test_the_stream_helper(server: Any) -> None:
    """It wants answers that end, and a model that knows nothing ends those of which the form says where."""
    with server.client().responses.stream(
        model=server.model, input=HELLO, max_output_tokens=300, text_format=City
    ) as stream:
        snapshot = [event.snapshot for event in stream if event.type == "response.output_text.delta"][-1]
        assert stream.get_final_response().output_text == snapshot


def test_parse(server: Any) -> None:
    answer = server.client().responses.parse(
        model=server.model, input="Name a city.", text_format=City, max_output_tokens=200
    )

    assert isinstance(answer.output_parsed, City)


def test_a_tool_and_its_result_in_what_is_sent(server: Any) -> None:
    first = create(server, tools=[WEATHER], store=False, **FORCED)
    (call,) = first.output
    said = [{"role": "user", "content": HELLO}, *first.output, result(call)]

    assert create(server, input=said, tools=[WEATHER], tool_choice="none", store=False).output_text


def test_a_tool_and_its_result_with_what_is_stored(server: Any) -> None:
    first = create(server, tools=[WEATHER], **FORCED)
    (call,) = first.output
    second = create(server, input=[result(call)], previous_response_id=first.id, tools=[WEATHER], tool_choice="none")

    assert second.previous_response_id == first.id
    assert second.output_text


def test_a_tool_in_a_stream(server: Any) -> None:
    with server.client().responses.stream(model=server.model, input=HELLO, tools=[WEATHER], **FORCED) as stream:
        kinds = {event.type for event in stream}
        (call,) = stream.get_final_response().output

    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds
    assert call.parsed_arguments.keys() == {"city"}


def test_a_custom_tool(server: Any) -> None:
    pattern = {"type": "grammar", "syntax": "regex", "definition": "[a-z]{1,8}"}
    tool = {"type": "custom", "name": "note", "format": pattern}
    (call,) = create(server, tools=[tool], **FORCED).output

    assert (call.type, call.name) == ("custom_tool_call", "note")
    assert call.input.isalpha()
    output = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "ok"}
    assert create(server, input=[{"role": "user", "content": HELLO}, call, output], tools=[tool], tool_choice="none")


def test_what_is_stored(server: Any) -> None:
    responses = server.client().responses
    answer = create(server)

    assert responses.retrieve(answer.id) == answer
    assert [item.content[0].text for item in responses.input_items.list(answer.id)] == [HELLO]
    with pytest.raises(openai.BadRequestError):
        responses.cancel(answer.id)
    responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        responses.retrieve(answer.id)


def test_tokens_are_counted(server: Any) -> None:
    counted = server.client().responses.input_tokens.count(model=server.model, input=HELLO, tools=[WEATHER])

    assert counted.input_tokens == create(server, tools=[WEATHER]).usage.input_tokens


def test_a_conversation_is_made_short(server: Any) -> None:
    said = [{"role": "user", "content": HELLO}, {"role": "assistant", "content": "Hi."}]
    short = server.client().responses.compact(model=server.model, input=said)

    assert [item.type for item in short.output] == ["message", "compaction"]
    assert create(server, input=[*short.output, {"role": "user", "content": "Go on."}]).output_text


def test_what_runs_elsewhere_is_named(server: Any) -> None:
    raw = server.client().responses.with_raw_response.create(
        model=server.model, input=HELLO, tools=[{"type": "web_search"}], max_output_tokens=4
    )

    assert raw.headers["x-edgellm-ignored"] == "tools[].web_search"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"temperature": 101}, "temperature"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_errors_are_the_client_s_classes(server: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(server, **fields)
    assert caught.value.param == param


def test_an_unknown_response_is_not_found(server: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        server.client().responses.retrieve("resp_1")


async def _streamed(server: Any) -> str:
    async with server.client(openai.AsyncOpenAI) as client:
        stream = await client.responses.create(model=server.model, input=HELLO, stream=True, **BRIEF)
        return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])


def test_the_async_client(server: Any) -> None:
    import asyncio

    streamed = asyncio.run(_streamed(server))
    assert streamed
    assert not server.is_echo or streamed == create(server).output_text
