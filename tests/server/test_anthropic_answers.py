"""Answers to Anthropic's clients, in events and whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from support.refusals import refuses

from edgellm.errors import Closed
from edgellm.sdk.answer import whole
from edgellm.server.dialects.anthropic.answer import NO_OBJECT, SIGNATURE
from edgellm.server.dialects.anthropic.body import AnthropicMessagesBody
from edgellm.server.dialects.anthropic.chunks import AnthropicChunks
from edgellm.types.event import Delta, Done, Event, FinishReason, Prefill, Timings, Usage

TIMES = Timings(0, 0, 0)
COUNTS = {
    "input_tokens": 4,
    "output_tokens": 9,
    "cache_read_input_tokens": 1,
    "cache_creation_input_tokens": 0,
    "output_tokens_details": {"thinking_tokens": 2},
}
START = Prefill(5, 1, 1, 0.0)
PING = {"type": "ping"}


def end(reason: FinishReason = "stop", stop: str = "", n_tokens: int = 9) -> Done:
    return Done(reason, Usage(5, n_tokens, 1, 2), TIMES, stop=stop)


CALLS: list[Event] = [
    START,
    Delta("Let me ", kind="reasoning"),
    Delta("think.", kind="reasoning"),
    Delta("I "),
    Delta("look."),
    Delta("weather", kind="call_name"),
    Delta('{"city": ', kind="call_arguments"),
    Delta('"Bonn"}', kind="call_arguments"),
    Delta("time", kind="call_name", call=1),
    end("tool_calls"),
]


def chunks_of(notes: Sequence[str] = (), **fields: Any) -> AnthropicChunks:
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "hello"}], **fields}
    return AnthropicChunks("m", AnthropicMessagesBody.read(json.dumps(body).encode()), notes)


def streamed(events: Sequence[Event], notes: Sequence[str] = (), **fields: Any) -> list[Any]:
    """The data of each event, whose name is the type in it."""
    chunks = chunks_of(notes, stream=True, **fields)
    sent = b""
    for event in events:
        tell: Any = {Delta: chunks.text, Done: chunks.last, Prefill: chunks.progress}[type(event)]
        sent += tell(event)
    told = []
    for block in sent.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {told[-1]['type']}"
    return told


def answered(events: Sequence[Event], notes: Sequence[str] = (), **fields: Any) -> Any:
    done = events[-1]
    assert isinstance(done, Done)
    said = [event for event in events if not isinstance(event, Prefill)]
    return json.loads(msgspec.json.encode(chunks_of(notes, **fields).whole(whole(said), done)))


def opened(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def added(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def closed(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def test_blocks_follow_one_another_in_a_stream() -> None:
    start, *told = streamed(CALLS)
    ids = [one["content_block"].pop("id") for one in told if "id" in one.get("content_block", {})]

    message = start["message"]
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**COUNTS, "output_tokens": 0, "output_tokens_details": {"thinking_tokens": 0}},
    }
    assert len(set(ids)) == 2
    assert told == [
        opened(0, type="thinking", thinking="", signature=""),
        added(0, type="thinking_delta", thinking="Let me "),
        added(0, type="thinking_delta", thinking="think."),
        added(0, type="signature_delta", signature=SIGNATURE),
        closed(0),
        opened(1, type="text", text=""),
        added(1, type="text_delta", text="I "),
        added(1, type="text_delta", text="look."),
        closed(1),
        opened(2, type="tool_use", name="weather", input={}),
        added(2, type="input_json_delta", partial_json='{"city": '),
        added(2, type="input_json_delta", partial_json='"Bonn"}'),
        closed(2),
        opened(3, type="tool_use", name="time", input={}),
        closed(3),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": COUNTS},
        {"type": "message_stop"},
    ]


def test_a_whole_answer() -> None:
    answer = answered(CALLS)
    ids = [block.pop("id") for block in answer["content"] if "id" in block]

    assert len(set(ids)) == 2
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Let me think.", "signature": SIGNATURE},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "name": "weather", "input": {"city": "Bonn"}},
            {"type": "tool_use", "name": "time", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": COUNTS,
    }


def test_what_is_thought_can_be_left_out() -> None:
    hidden = {"thinking": {"type": "adaptive", "display": "omitted"}}
    told = streamed(CALLS, **hidden)

    assert told[1:4] == [
        opened(0, type="thinking", thinking="", signature=""),
        added(0, type="signature_delta", signature=SIGNATURE),
        closed(0),
    ]
    assert answered(CALLS, **hidden)["content"][0] == {"type": "thinking", "thinking": "", "signature": SIGNATURE}


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        (end(), "end_turn"),
        (end(stop="END"), "stop_sequence"),
        (end("tool_calls"), "tool_use"),
        (end("length"), "max_tokens"),
        (end("length", n_tokens=8), "model_context_window_exceeded"),
    ],
)
def test_why_an_answer_ended(done: Done, reason: str) -> None:
    events: list[Event] = [START, Delta("hello"), done]
    stop = done.stop or None

    assert (answered(events)["stop_reason"], answered(events)["stop_sequence"]) == (reason, stop)
    assert streamed(events)[-2]["delta"] == {"stop_reason": reason, "stop_sequence": stop}


@pytest.mark.parametrize("arguments", ['{"city": "Bo', "[1]", "oops", "[" * 5000])
def test_arguments_that_are_no_object_are_told_as_they_are(arguments: str) -> None:
    called: list[Event] = [
        START,
        Delta("f", kind="call_name"),
        Delta(arguments, kind="call_arguments"),
        end("length"),
    ]
    *_, added_last, _, _, _ = streamed(called)

    assert answered(called)["content"][0]["input"] == {NO_OBJECT: arguments}
    assert added_last == added(0, type="input_json_delta", partial_json=arguments)


def test_an_answer_without_a_word() -> None:
    start, delta, stop = streamed([START, Delta(""), end()])

    assert (start["type"], delta["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    assert answered([end()])["content"] == []


def test_a_stream_begins_also_where_nothing_was_told_of_the_prompt() -> None:
    start, delta, _ = streamed([end()])

    assert (start["type"], delta["type"]) == ("message_start", "message_delta")
    assert start["message"]["usage"]["input_tokens"] == 4
    assert streamed([Delta("hi"), end()])[0]["type"] == "message_start"


def test_signs_of_life() -> None:
    told = streamed([START, Prefill(5, 1, 5, 0.1), Delta("hello"), end()])

    assert [one["type"] for one in told[:3]] == ["message_start", "ping", "content_block_start"]
    assert chunks_of().waiting() == b'event: ping\ndata: {"type":"ping"}\n\n'


def test_what_a_template_did_not_take_is_told() -> None:
    assert streamed([START, end()], ["system_merged"])[-2]["notes"] == ["system_merged"]
    assert answered([end()], ["system_merged"])["notes"] == ["system_merged"]


def test_half_an_answer_is_none() -> None:
    with refuses(Closed):
        streamed([START, Delta("hel"), end("cancelled")])


def test_an_error_ends_a_stream() -> None:
    name, data = chunks_of().failed(Closed("gone"), "r1").decode().removesuffix("\n\n").split("\n")

    assert name == "event: error"
    told = {"type": "error", "error": {"type": "api_error", "message": "gone"}, "request_id": "r1"}
    assert json.loads(data.removeprefix("data: ")) == told
