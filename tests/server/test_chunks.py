"""Reasoning, calls and several choices as OpenAI's chunks, and as a whole answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.refusals import refuses

from edgellm.errors import Closed
from edgellm.sdk.answer import whole
from edgellm.server.dialects.openai.chat_chunks import ChatChunks
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas.chat import ChatBody
from edgellm.server.schemas.usage import CompletionTimings
from edgellm.types.event import Delta, Done, Event, FinishReason, Timings, Usage
from edgellm.types.logprob import Alternative, TokenLogprob

TIMES = Timings(0, 0, 0)
FUNCTION = {"name": "f"}


def end(reason: FinishReason = "tool_calls", choice: int = 0, n_open: int = 0) -> Done:
    return Done(reason, Usage(5, 4, 1, 2), TIMES, choice, n_open)


CALLS: list[Event] = [
    Delta("Let me ", kind="reasoning"),
    Delta("think.", kind="reasoning"),
    Delta("weather", kind="call_name"),
    Delta('{"city": ', kind="call_arguments"),
    Delta('"Bonn"}', kind="call_arguments"),
    Delta("time", kind="call_name", call=1),
    Delta("{}", kind="call_arguments", call=1),
    end(),
]


def chunks_of(notes: Sequence[str] = (), **fields: Any) -> ChatChunks:
    body = {"messages": [{"role": "user", "content": "hello"}], **fields}
    model: Any = SimpleNamespace(id_for=lambda name, chooses: "m", fingerprint="fp_1")
    return ChatChunks(model, ChatBody.read(json.dumps(body).encode()), RequestRecord("", "", "", ""), notes)


def streamed(events: Sequence[Event], **fields: Any) -> list[Any]:
    """The data of each event; the last is "[DONE]"."""
    chunks = chunks_of(stream=True, **fields)
    chunks._record.sees(events)
    sent = b"".join(chunks.text(event) if isinstance(event, Delta) else chunks.last(event) for event in events)
    data = [block.removeprefix("data: ") for block in sent.decode().split("\n\n")[:-1]]
    assert data[-1] == "[DONE]"
    return [*map(json.loads, data[:-1]), data[-1]]


def deltas(events: Sequence[Event], **fields: Any) -> Iterator[tuple[int, Any]]:
    for chunk in streamed(events, **fields)[:-1]:
        (choice,) = chunk["choices"]
        yield choice["index"], choice["finish_reason"] or choice["delta"]


def message(events: Sequence[Event], **fields: Any) -> Any:
    answer = chunks_of(**fields).whole(whole(events), CompletionTimings.of(TIMES, Usage(0, 0)))
    (choice,) = json.loads(msgspec.json.encode(answer))["choices"]
    return choice


def without_ids(told: Any) -> Any:
    """Each call has an id of its own."""
    calls = [call for one in told if isinstance(one, dict) for call in one.get("tool_calls", []) if "id" in call]
    ids = [call.pop("id") for call in calls]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    return told


def test_a_call_begins_with_its_name_and_goes_on_with_arguments() -> None:
    assert without_ids([delta for _, delta in deltas(CALLS)]) == [
        {"role": "assistant", "content": None},
        {"reasoning_content": "Let me "},
        {"reasoning_content": "think."},
        {"tool_calls": [{"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Bonn"}'}}]},
        {"tool_calls": [{"index": 1, "type": "function", "function": {"name": "time", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        "tool_calls",
    ]


def test_a_whole_answer_has_null_content_beside_its_calls() -> None:
    choice = message(CALLS)

    assert choice["finish_reason"] == "tool_calls"
    without_ids([choice["message"]])
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "Let me think.",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}},
            {"type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }


def test_text_beside_a_call_is_content() -> None:
    events = [Delta("I will look."), *CALLS[2:]]

    assert message(events)["message"]["content"] == "I will look."
    assert [delta for _, delta in deltas(events)][:2] == [
        {"role": "assistant", "content": None},
        {"content": "I will look."},
    ]


def test_whoever_sends_functions_gets_a_function_call() -> None:
    events = [*CALLS[2:5], end()]
    choice = message(events, functions=[FUNCTION])

    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Bonn"}'}
    assert "tool_calls" not in choice["message"]
    assert [delta for _, delta in deltas(events, functions=[FUNCTION])] == [
        {"role": "assistant", "content": None},
        {"function_call": {"name": "weather", "arguments": ""}},
        {"function_call": {"arguments": '{"city": '}},
        {"function_call": {"arguments": '"Bonn"}'}},
        "function_call",
    ]


CUSTOM = [{"type": "custom", "custom": {"name": "shell"}}]


def test_a_custom_call_goes_on_with_its_text() -> None:
    pieces = ['{"inp', 'ut": "l', "s \\", 'n\\"', '"}']
    events = [
        Delta("shell", kind="call_name"),
        *(Delta(piece, kind="call_arguments") for piece in pieces),
        *(msgspec.structs.replace(event, call=1) for event in CALLS[3:1:-1]),  # of another tool, in any order
        end(),
    ]
    told = without_ids([delta for _, delta in deltas(events, tools=CUSTOM)])
    (call, _) = without_ids([message(events, tools=CUSTOM)["message"]])[0]["tool_calls"]

    assert told[1:6] == [
        {"tool_calls": [{"index": 0, "type": "custom", "custom": {"name": "shell", "input": ""}}]},
        *({"tool_calls": [{"index": 0, "custom": {"input": text}}]} for text in ("l", "s ", '\n"')),
        {"tool_calls": [{"index": 1, "function": {"arguments": '{"city": '}}]},
    ]
    assert call == {"type": "custom", "custom": {"name": "shell", "input": 'ls \n"'}}


def test_what_was_held_back_of_a_custom_call_comes_at_the_end() -> None:
    events = [Delta("shell", kind="call_name"), Delta('{"inp', kind="call_arguments"), end("length")]

    assert [delta for _, delta in deltas(events, tools=CUSTOM)][2:] == [
        {"tool_calls": [{"index": 0, "custom": {"input": '{"inp'}}]},
        "length",
    ]


def test_choices_of_one_stream_each_have_their_role_and_their_end() -> None:
    events: list[Event] = [
        Delta("a"),
        Delta("b", choice=1),
        Delta("c"),
        end("stop", 1, 1),
        Delta("d"),
        end("length", 0, 0),
    ]

    assert list(deltas(events)) == [
        (0, {"role": "assistant", "content": None}),
        (0, {"content": "a"}),
        (1, {"role": "assistant", "content": None}),
        (1, {"content": "b"}),
        (0, {"content": "c"}),
        (1, "stop"),
        (0, {"content": "d"}),
        (0, "length"),
    ]


def test_usage_comes_last_and_counts_the_prompt_once() -> None:
    chunks = chunks_of(stream=True, stream_options={"include_usage": True}, n=2)
    ends = [end("stop", 1, 1), end("stop", 0, 0)]
    chunks._record.sees(ends, 2)
    sent = b"".join(map(chunks.last, ends)).decode().split("\n\n")
    usage = json.loads(sent[-3].removeprefix("data: "))

    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 8,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 4,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_logprobs_come_with_what_they_are_of() -> None:
    token = TokenLogprob(Alternative(1, b"{}", -0.5))
    events = [CALLS[2], Delta("{}", kind="call_arguments", logprobs=(token,)), end()]
    choice = streamed(events)[2]["choices"][0]

    assert choice["delta"] == {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
    assert choice["logprobs"]["content"][0]["token"] == "{}"


def test_what_the_template_did_not_take_is_told() -> None:
    notes = ["system_merged", "tools_prompted"]
    told = json.loads(chunks_of(notes).last(end()).split(b"data: ")[2])
    whole_answer = chunks_of(notes).whole(whole(CALLS), CompletionTimings.of(TIMES, Usage(0, 0)))

    assert told["notes"] == json.loads(msgspec.json.encode(whole_answer))["notes"] == notes


def test_an_answer_of_nothing_has_a_role_and_an_end() -> None:
    assert [delta for _, delta in deltas([end("stop")])] == [{"role": "assistant", "content": None}, "stop"]
    assert message([end("stop")])["message"] == {"role": "assistant", "content": "", "refusal": None}


@pytest.mark.parametrize("text", ['"', "\\", "\n", "\0", "Grüße 🎈", "</script>"])
def test_text_that_json_escapes_fits_the_template(text: str) -> None:
    for kind in ("text", "reasoning", "call_arguments"):
        told = [delta for _, delta in deltas([Delta(text, kind=kind), Delta(text, kind=kind), end()])]
        assert text in json.dumps(told, ensure_ascii=False) or json.dumps(text)[1:-1] in json.dumps(told)
        assert told[1] == told[2]


def test_the_beginning_of_an_answer_is_not_all_of_it() -> None:
    with refuses(Closed):
        chunks_of().last(end("cancelled"))
