"""Thoughts, calls and logprobs in Ollama's lines and whole answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from support.refusals import refuses

from edgellm.errors import Closed
from edgellm.sdk.answer import whole
from edgellm.server.dialects.ollama.chunks import OllamaChatChunks, OllamaChunks, OllamaGenerateChunks
from edgellm.types.event import Delta, Done, Event, FinishReason, Timings, Usage
from edgellm.types.logprob import Alternative, TokenLogprob

TOKEN = TokenLogprob(Alternative(1, b"\xc3", -0.5), (Alternative(2, b"b", -1.5),))
TOLD = {"token": "�", "logprob": -0.5, "bytes": [195]}


def end(reason: FinishReason = "tool_calls") -> Done:
    return Done(reason, Usage(5, 4), Timings(0.001, 0.002, 0.0))


CALLS: list[Event] = [
    Delta("Let me ", kind="reasoning"),
    Delta("think.", kind="reasoning"),
    Delta("Well:", kind="text"),
    Delta("weather", kind="call_name"),
    Delta('{"city": ', kind="call_arguments"),
    Delta('"Bonn"}', kind="call_arguments"),
    Delta("time", kind="call_name", call=1),
    Delta("{}", kind="call_arguments", call=1),
    end(),
]


def streamed(events: Sequence[Event], kind: type[OllamaChunks] = OllamaChatChunks, notes: Sequence[str] = ()) -> Any:
    chunks = kind("m", notes)
    sent = b"".join(chunks.text(event) if isinstance(event, Delta) else chunks.last(event) for event in events)
    return [json.loads(line) for line in sent.splitlines()]


def answered(events: Sequence[Event], kind: type[OllamaChunks] = OllamaChatChunks, notes: Sequence[str] = ()) -> Any:
    return json.loads(msgspec.json.encode(kind("m", notes).whole(whole(events))))


def called(message: Any) -> list[tuple[int, str, Any]]:
    functions = [call["function"] for call in message.get("tool_calls", [])]
    assert len({call["id"] for call in message.get("tool_calls", [])}) == len(functions)
    return [(function["index"], function["name"], function["arguments"]) for function in functions]


def test_a_call_is_a_line_of_its_own_with_its_arguments_as_an_object() -> None:
    sent = [line["message"] for line in streamed(CALLS)]

    assert [message.get("thinking") for message in sent[:2]] == ["Let me ", "think."]
    assert [message["content"] for message in sent] == ["", "", "Well:", "", "", ""]
    assert [called(message) for message in sent[3:]] == [
        [(0, "weather", {"city": "Bonn"})],
        [(1, "time", {})],
        [],
    ]


def test_the_whole_answer_has_the_same() -> None:
    answer = answered(CALLS)

    assert answer["message"]["thinking"] == "Let me think."
    assert answer["message"]["content"] == "Well:"
    assert called(answer["message"]) == [(0, "weather", {"city": "Bonn"}), (1, "time", {})]
    assert answer["done_reason"] == "stop"


def test_text_behind_a_call_comes_behind_it() -> None:
    sent = streamed([*CALLS[3:6], Delta("There."), end()])

    assert [len(called(line["message"])) for line in sent] == [1, 0, 0]
    assert sent[1]["message"]["content"] == "There."


@pytest.mark.parametrize("arguments", ["", '{"a": ', "[1]", "null", '"x"', "[" * 100_000])
def test_arguments_that_are_no_object_are_told_as_they_are(arguments: str) -> None:
    cut: list[Event] = [Delta("f", kind="call_name"), Delta(arguments, kind="call_arguments"), end("length")]
    meant = {"arguments": arguments} if arguments else {}

    assert called(streamed(cut)[0]["message"]) == [(0, "f", meant)]
    assert called(answered(cut)["message"]) == [(0, "f", meant)]


def test_durations_notes_and_the_reason() -> None:
    for last in (
        streamed([Delta("a"), end("length")], notes=["n"])[-1],
        answered([Delta("a"), end("length")], notes=["n"]),
    ):
        assert (last["done"], last["done_reason"], last["notes"]) == (True, "length", ["n"])
        assert (last["load_duration"], last["prompt_eval_duration"], last["eval_duration"]) == (1_000_000, 2_000_000, 1)
        assert (last["total_duration"], last["prompt_eval_count"], last["eval_count"]) == (3_000_001, 5, 4)


def test_thoughts_of_generate() -> None:
    events = [Delta("hm", kind="reasoning"), Delta("yes"), end("stop")]
    sent = streamed(events, OllamaGenerateChunks)

    assert [(line["response"], line.get("thinking")) for line in sent] == [("", "hm"), ("yes", None), ("", None)]
    assert (
        answered([Delta("hm", kind="reasoning"), Delta("yes"), end("stop")], OllamaGenerateChunks)["thinking"] == "hm"
    )


def test_logprobs_of_text_and_of_calls() -> None:
    events = [Delta("a", logprobs=(TOKEN,)), Delta("f", kind="call_name", logprobs=(TOKEN,)), end()]
    sent = streamed(events)
    told = {**TOLD, "top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": [98]}]}

    assert [line.get("logprobs") for line in sent] == [[told], [told], None]
    assert answered(events)["logprobs"] == [told, told]


def test_a_stream_that_has_no_end_says_so() -> None:
    with refuses(Closed):
        streamed([Delta("a"), end("cancelled")])
