"""Fields that other servers have beside OpenAI's: what of the prompt is reused and told, and what is dropped of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support.live_server import Live
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.server.dialects.openai.running_timings import RunningTimings
from edgellm.server.schemas.chat import ChatBody
from edgellm.server.schemas.keep_alive import unloads
from edgellm.types.event import Delta, Prefill

LLAMA = {"cache_n", "prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"}
TEXT = "Once upon a time there was a small model. " * 20


def chunks(live: Live, **fields: Any) -> list[Any]:
    """Of a chat about TEXT; "[DONE]" is left out."""
    answer = live.chat(TEXT, stream=True, **fields)
    blocks = [block.removeprefix("data: ") for block in answer.text.split("\n\n") if block.startswith("data: ")]
    assert blocks.pop() == "[DONE]"
    return [json.loads(block) for block in blocks]


def body(**fields: Any) -> ChatBody:
    return ChatBody.read(json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode())


def test_the_penalty_has_two_names() -> None:
    assert body(repeat_penalty=1.2).sampling() == body(repetition_penalty=1.2).sampling()
    assert body(repeat_penalty=1.2, repetition_penalty=1.2).sampling().repetition_penalty == 1.2
    with refuses(UsageError, param="repeat_penalty"):
        body(repeat_penalty=1.2, repetition_penalty=1.1).sampling()


def test_nothing_is_reused_where_that_is_not_wanted(live: Live) -> None:
    first, second, third = (live.chat(TEXT, max_tokens=1, **more).json() for more in ({}, {"cache_prompt": False}, {}))
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in (first, second, third)]
    assert cached[1] == 0
    assert cached[2] == third["usage"]["prompt_tokens"] - 1
    text = {"prompt": TEXT, "max_tokens": 1, "cache_prompt": False}
    answers = [live.post("/v1/completions", text).json() for _ in "ab"]
    assert [answer["timings"]["cache_n"] for answer in answers] == [0, 0]


def test_a_stream_tells_how_its_prompt_is_read(live: Live) -> None:
    every = chunks(live, max_tokens=2, return_progress=True, cache_prompt=False)
    told = [chunk["prompt_progress"] for chunk in every if "prompt_progress" in chunk]
    assert [list(one) for one in told] == [["total", "cache", "processed", "time_ms"]] * len(told)
    assert "prompt_progress" in every[0]
    assert every[0]["choices"][0]["delta"] == {"content": ""}
    assert (told[0]["cache"], told[0]["processed"]) == (0, 0)
    assert told[-1]["processed"] == told[-1]["total"] == every[-1]["timings"]["prompt_n"]
    assert not any("prompt_progress" in chunk or "timings" in chunk for chunk in chunks(live, max_tokens=2)[:-1])
    answer = live.post("/v1/completions", {"prompt": TEXT, "max_tokens": 1, "stream": True, "return_progress": True})
    assert '"prompt_progress":{"total":' in answer.text


def test_progress_is_for_streams(live: Live) -> None:
    answer = live.chat("hi", return_progress=True)
    assert answer.headers["x-edgellm-ignored"] == "return_progress"
    assert "x-edgellm-ignored" not in live.chat("hi", return_progress=True, stream=True).headers


def test_each_chunk_has_timings_where_they_are_wanted(live: Live) -> None:
    *_, before, last = every = chunks(live, max_tokens=20, timings_per_token=True)
    assert set(last["timings"]) >= LLAMA
    counts = [chunk["timings"]["predicted_n"] for chunk in every[1:]]
    assert counts == sorted(counts)
    assert counts[-2:] == [20, 20]
    names = LLAMA - {"predicted_ms", "predicted_per_second"}
    assert {name: before["timings"][name] for name in names} == {name: last["timings"][name] for name in names} | {
        # The first is measured until the part was computed, the second until its token was drawn.
        name: before["timings"][name]
        for name in ("prompt_ms", "prompt_per_second")
    }
    assert not any("prompt_progress" in chunk for chunk in every)


def test_timings_of_choices_are_those_of_their_prompt() -> None:
    timings = RunningTimings()
    timings.read(Prefill(10, 2, 10, 0.5, choice=0))
    timings.read(Prefill(30, 0, 30, 1.0, choice=2))
    told = [timings.count(Delta("a", 2, choice=choice)) for choice in (0, 1, 2, 3, 2)]
    assert [(one.cache_n, one.prompt_n, one.predicted_n) for one in told] == [
        (2, 8, 2), (2, 8, 2), (0, 30, 2), (0, 30, 2), (0, 30, 4),
    ]  # fmt: skip
    assert told[0].prompt_per_second == 16


@pytest.mark.parametrize("value", [0, 0.0, "0", "0s", "0h0m", "-0"])
def test_a_model_that_is_to_go_stays(value: object) -> None:
    assert body(keep_alive=value).notes() == ["model_stays_loaded"]


@pytest.mark.parametrize("value", [None, -1, 300, 0.5, "5m", "-1", "1h30m", "24h", "-1m", ".5s", "300"])
def test_a_model_that_is_to_stay_stays(value: Any) -> None:
    assert not unloads(value)
    assert body(keep_alive=value).notes() == []


@pytest.mark.parametrize("value", ["", "soon", "5 m", "m", "5m!", "1" * 41, "٣m", "--1"])
def test_what_is_no_duration_is_refused(value: str) -> None:
    with refuses(UsageError, param="keep_alive"):
        body(keep_alive=value)


def test_the_answer_says_so(live: Live) -> None:
    assert live.chat("hi", keep_alive=0).json()["notes"] == ["model_stays_loaded"]
    assert "notes" not in live.chat("hi", keep_alive="5m").json()
    assert chunks(live, keep_alive="0", max_tokens=1)[-1]["notes"] == ["model_stays_loaded"]


def test_the_oldest_turns_are_dropped_where_that_is_wanted() -> None:
    said = [{"role": role, "content": "a" * 50} for _ in range(9) for role in ("user", "assistant")]
    messages = [*said, {"role": "user", "content": "And now?"}]
    with EdgeLLM.load("echo", ctx=512, isolate=False) as llm:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
        llm._session._info = replace(llm.info, chat_template=template)
        (request,) = body(messages=messages, max_tokens=100, truncate_prompt=True).to_requests(llm)
        (note,) = request.notes
        assert note.startswith("messages_dropped: ")
        assert llm.count_tokens(request) <= 412
        (request,) = body(messages=messages, max_tokens=100).to_requests(llm)
        assert request.notes == ()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"reasoning_effort": "high"}),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}),
        ("/api/chat", {"think": True, "stream": False, "model": "echo"}),
        ("/v1/responses", {"reasoning": {"effort": "high"}, "input": "hello"}),
    ],
)
def test_thinking_that_a_model_cannot_is_noted(live: Live, path: str, fields: dict[str, Any]) -> None:
    messages = {} if "input" in fields else {"messages": [{"role": "user", "content": "hello"}]}
    assert live.post(path, {**messages, **fields}).json()["notes"] == ["thinking_unsupported"]
