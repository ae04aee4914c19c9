"""The OpenAI face over real HTTP: shapes, streaming, models, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from support.live_server import Live, Servers
from support.off_loop import calls_off_loop

from edgellm.server.dialects.openai.chat_chunks import ChatChunks
from edgellm.server.dialects.openai.text_chunks import TextChunks
from edgellm.server.schemas.completion import MAX_ECHO

ISOLATE = False  # a process for a model costs more than most of these tests, and changes none of their answers


def events(answer: httpx.Response) -> list[Any]:
    """Data of a stream's events; "[DONE]" stays text."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    data = [block.removeprefix("data: ") for block in blocks]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def test_a_chat_answer(live: Live) -> None:
    body = live.chat("Grüße, 世界! 🎈").json()
    choice = body["choices"][0]

    assert choice["message"] == {"role": "assistant", "content": "Grüße, 世界! 🎈", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert body["object"] == "chat.completion"
    assert body["model"] == "echo"
    assert body["id"].startswith("chatcmpl-")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == len("Grüße, 世界! 🎈".encode())
    timings = body["timings"]
    assert set(timings) > {"queued_ms", "prefill_ms", "decode_ms", "prefill_tok_s", "decode_tok_s", "sampling"}
    assert (timings["cache_n"] + timings["prompt_n"], timings["predicted_n"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def test_a_chat_stream(live: Live) -> None:
    chunks = events(live.chat("Grüße 🎈", stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]

    assert chunks[-1] == "[DONE]"
    assert deltas[0] == {"role": "assistant", "content": None}
    assert "".join(delta.get("content") or "" for delta in deltas) == "Grüße 🎈"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1
    assert {chunk["object"] for chunk in chunks[:-1]} == {"chat.completion.chunk"}
    assert "usage" not in chunks[0]
    assert chunks[-2]["timings"]["decode_tok_s"] >= 0


def test_a_stream_with_usage_ends_with_it(live: Live) -> None:
    chunks = events(live.chat("hello", stream=True, stream_options={"include_usage": True}))

    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["completion_tokens"] == 5
    assert all(chunk["usage"] is None for chunk in chunks[:-2])


def test_text_that_json_must_escape_survives_a_stream(live: Live) -> None:
    text = 'quote " backslash \\ newline \n tab \t </script> null \x00 line \u2028 hole'
    chunks = events(live.chat(text, stream=True))

    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1]) == text


def test_a_completion(live: Live) -> None:
    body = live.post("/v1/completions", {"prompt": "hello"}).json()

    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "hello", "finish_reason": "stop", "logprobs": None}]


def test_a_completion_stream(live: Live) -> None:
    chunks = events(live.post("/v1/completions", {"prompt": "hello", "stream": True}))

    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == "hello"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


def test_limits_and_stops_end_an_answer(live: Live) -> None:
    cut = live.chat("hello", max_tokens=3).json()["choices"][0]
    stopped = live.chat("one two three", stop="two").json()["choices"][0]

    assert (cut["message"]["content"], cut["finish_reason"]) == ("hel", "length")
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("one ", "stop")


def test_ignore_eos_goes_on(live: Live) -> None:
    body = live.post("/v1/completions", {"prompt": "hi", "ignore_eos": True, "max_tokens": 9}).json()

    assert body["usage"]["completion_tokens"] == 9
    assert body["choices"][0]["finish_reason"] == "length"


def test_a_seed_is_taken(live: Live) -> None:
    answers = {live.chat("hello", seed=7, temperature=100).json()["choices"][0]["message"]["content"] for _ in "ab"}
    assert len(answers) == 1


def test_an_answer_says_what_it_was_drawn_by(live: Live) -> None:
    usual = {"origin": "usual", "values": {"top_k": 40, "top_p": 0.95, "min_p": 0.05}}
    said = [{"origin": "request", "values": {"temperature": 0.5}}, usual]
    streamed = events(live.chat("hello", temperature=0.5, stream=True))
    text = live.post("/v1/completions", {"prompt": "hello"}).json()

    assert live.chat("hello", temperature=0.5).json()["timings"]["sampling"] == said
    assert streamed[-2]["timings"]["sampling"] == said
    assert text["timings"]["sampling"] == [usual | {"values": {"temperature": 0.8} | usual["values"]}]


def test_models(live: Live) -> None:
    listed = live.http.get("/v1/models").json()

    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["echo"]
    assert live.http.get("/v1/models/echo").json() == listed["data"][0]
    n_ctx = live.llm.plan.settings.n_ctx
    assert (listed["data"][0]["context_length"], listed["data"][0]["meta"]) == (n_ctx, {"n_ctx": n_ctx})
    assert live.http.get("/v1/models/gpt-4").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("name", ["echo", "default", "edgellm", None])
def test_names_that_mean_the_served_model(live: Live, name: str | None) -> None:
    assert live.chat("x", model=name).json()["model"] == "echo"


def test_another_model_is_not_answered_for(live: Live) -> None:
    answer = live.chat("x", model="gpt-4o")

    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "model"
    assert "echo" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"modalities": ["audio"]}, 400, "unsupported_field", "modalities"),
        ({"tool_choice": "required"}, 400, "usage_error", "tool_choice"),
        ({"temperature": 1000}, 400, "usage_error", "temperature"),
        ({"max_tokens": 0}, 400, "usage_error", "max_tokens"),
        ({"max_tokens": 10**30}, 400, "usage_error", "max_tokens"),
        ({"messages": []}, 400, "usage_error", "messages"),
        ({"stop": [""]}, 400, "usage_error", "stop"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "context_length_exceeded", "messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_one_shape(
    live: Live, fields: dict[str, Any], status: int, code: str, param: str | None, stream: bool
) -> None:
    answer = (
        live.chat("x", stream=stream, **fields)
        if "messages" not in fields
        else live.post("/v1/chat/completions", {"stream": stream, **fields})
    )
    error = answer.json()["error"]

    assert answer.status_code == status
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"}


def test_it_serves_on_after_every_error(live: Live) -> None:
    assert live.chat("still here").json()["choices"][0]["message"]["content"] == "still here"


def test_a_base_model_does_not_chat(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve()
    monkeypatch.setattr(type(live.llm._session), "info", replace(live.llm.info, chat_template=None))
    answer = live.chat("x")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_template")
    assert "/v1/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_named_as_its_face_calls_it(live: Live, stream: bool) -> None:
    answer = live.post("/v1/completions", {"prompt": "x" * 5000, "stream": stream})

    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert answer.json()["error"]["param"] == "prompt"


def test_logprobs_of_a_chat(live: Live) -> None:
    choice = live.chat("Grüße", logprobs=True, top_logprobs=2).json()["choices"][0]
    content = choice["logprobs"]["content"]

    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "Grüße"
    assert [len(token["top_logprobs"]) for token in content] == [2] * len(content)
    assert content[0]["top_logprobs"][0] == {key: content[0][key] for key in ("token", "logprob", "bytes")}
    assert content[0]["logprob"] == pytest.approx(0.0, abs=1e-9)
    assert choice["logprobs"]["refusal"] is None


def test_logprobs_of_a_stream_are_those_of_the_whole(live: Live) -> None:
    whole = live.chat("Grüße 🎈", logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    chunks = events(live.chat("Grüße 🎈", stream=True, logprobs=True, top_logprobs=1))[:-1]
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)

    assert [token for part in told if part for token in part["content"]] == whole
    assert text == "Grüße 🎈"


def test_logprobs_of_a_completion(live: Live) -> None:
    body = {"prompt": "abc", "logprobs": 2, "max_tokens": 9}
    told = live.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    stream = events(live.post("/v1/completions", {**body, "stream": True}))[:-1]
    offsets = [at for chunk in stream if (part := chunk["choices"][0]["logprobs"]) for at in part["text_offset"]]

    assert told["tokens"] == ["a", "b", "c"]
    assert told["text_offset"] == offsets == [0, 1, 2]
    assert told["token_logprobs"] == pytest.approx([0.0] * 3, abs=1e-9)
    assert all(token in top and len(top) == 2 for token, top in zip(told["tokens"], told["top_logprobs"], strict=True))


def test_logprobs_of_a_long_prompt_are_streamed_from_beside_the_event_loop(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = calls_off_loop(monkeypatch, TextChunks, "text")
    body = {"prompt": "a" * 300, "logprobs": 1, "echo": True, "max_tokens": 1, "stream": True}
    first, *_ = events(live.post("/v1/completions", body))

    assert len(first["choices"][0]["logprobs"]["tokens"]) >= 300
    assert written
    assert all(written)


def test_whole_answers_are_written_beside_the_event_loop(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, chats = calls_off_loop(monkeypatch, TextChunks, "whole"), calls_off_loop(monkeypatch, ChatChunks, "whole")
    body = {"prompt": ["abc", "d"], "logprobs": 1, "echo": True, "max_tokens": 1}

    assert len(live.post("/v1/completions", body).json()["choices"]) == 2
    assert live.chat("a").status_code == 200
    assert (texts, chats) == ([True], [True])


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ("/v1/chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("/v1/completions", {"logprobs": 21}, "logprobs"),
        ("/v1/completions", {"logprobs": True}, "logprobs"),
        ("/v1/completions", {"logprobs": 1, "echo": True, "prompt": ["a" * 1000] * 1001}, "echo"),
        ("/v1/completions", {"echo": True, "n": 3, "prompt": "a" * (MAX_ECHO // 3 + 1)}, "echo"),
    ],
)
def test_wrong_logprobs_are_refused(live: Live, path: str, fields: dict[str, Any], param: str) -> None:
    text = {"prompt": "a"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}]}
    answer = live.post(path, {**text, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_logprobs_are_of_the_model_and_not_of_what_is_drawn(live: Live) -> None:
    fields = {"logprobs": True, "top_logprobs": 1, "structured_outputs": {"choice": ["b"]}, "temperature": 0.1}
    (token,) = live.chat("a", **fields).json()["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["top_logprobs"][0]["token"]) == ("b", "a")
    assert token["logprob"] == pytest.approx(-100.0, abs=1e-6)


def texts(answer: httpx.Response) -> list[str]:
    """Of each choice, whole or streamed."""
    if answer.headers["content-type"] == "application/json":
        choices = answer.json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(len(choices)))
        return [choice["text"] for choice in choices]
    chunks = [chunk["choices"][0] for chunk in events(answer)[:-1]]
    numbers = range(len({chunk["index"] for chunk in chunks}))
    assert sorted(chunk["index"] for chunk in chunks if chunk["finish_reason"]) == list(numbers)
    return ["".join(chunk["text"] for chunk in chunks if chunk["index"] == number) for number in numbers]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": ["one", "two", "three"]}, ["one", "two", "three"]),
        ({"prompt": [101, 256]}, ["e"]),
        ({"prompt": [[97, 256], [98, 98, 256]]}, ["a", "bb"]),
        ({"prompt": "hi", "n": 5}, ["hi"] * 5),
        ({"prompt": ["a", "b"], "n": 3}, ["a", "a", "a", "b", "b", "b"]),
        ({"prompt": ["a", "b"], "n": 2, "echo": True}, ["aa", "aa", "bb", "bb"]),
        ({"prompt": "a", "n": 5, "echo": True}, ["aa"] * 5),
    ],
)
def test_prompts_and_their_answers_are_numbered_through(
    live: Live, fields: dict[str, Any], expected: list[str], stream: bool
) -> None:
    assert texts(live.post("/v1/completions", {**fields, "stream": stream})) == expected


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_usage_counts_a_prompt_once_and_all_answers(live: Live, path: str) -> None:
    text = (
        {"prompt": ["abc", "abc"]} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "abc"}]}
    )
    n_prompts = len(text.get("prompt", [""]))
    body = {**text, "n": 3}
    whole = live.post(path, body).json()["usage"]
    streamed = events(live.post(path, {**body, "stream": True, "stream_options": {"include_usage": True}}))[-2]

    assert streamed["choices"] == []
    for usage in (whole, streamed["usage"]):
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (4 * n_prompts, 9 * n_prompts)
        assert usage["completion_tokens_details"] == {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        }


def test_answers_in_portions_are_those_of_one_request(serve: Servers) -> None:
    """With one slot each answer is a request of its own, with four they are one."""
    body = {
        "prompt": "x" * 30,
        "n": 4,
        "seed": 7,
        "temperature": 100,
        "top_k": 0,
        "top_p": 1,
        "min_p": 0,
        "max_tokens": 20,
    }
    body |= {"logit_bias": {str(token): 100 for token in range(97, 123)}}
    in_portions, at_once = (
        texts(serve().post("/v1/completions", body)),
        texts(serve(slots=4).post("/v1/completions", body)),
    )

    assert in_portions == at_once
    assert len(set(at_once)) == 4


def test_the_best_of_several_are_sent(live: Live) -> None:
    body = {"prompt": "ab", "best_of": 8, "n": 2, "seed": 1, "temperature": 100, "max_tokens": 2}
    body |= {"structured_outputs": {"choice": ["ab", "xb"]}, "logprobs": 0}
    drawn = live.post("/v1/completions", {**body, "n": 8, "best_of": 8}).json()["choices"]
    answer = live.post("/v1/completions", body).json()
    likelihood = [sum(choice["logprobs"]["token_logprobs"]) for choice in drawn]
    best = sorted(range(8), key=lambda number: -likelihood[number])[:2]

    assert len(set(likelihood)) > 1
    assert [choice["text"] for choice in answer["choices"]] == [drawn[number]["text"] for number in best]
    assert answer["usage"]["completion_tokens"] == 16


def test_logprobs_that_nobody_asked_for_are_not_sent(live: Live) -> None:
    choices = live.post("/v1/completions", {"prompt": "ab", "best_of": 2}).json()["choices"]

    assert [(choice["text"], choice["logprobs"]) for choice in choices] == [("ab", None)]


def test_timings_of_several_answers_are_those_of_the_first_which_computed_the_prompt(live: Live) -> None:
    answer = live.chat("several answers", n=3).json()
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert answer["timings"]["cache_n"] == cached
    assert answer["timings"]["prompt_n"] == answer["usage"]["prompt_tokens"] - cached > 1


def test_the_fingerprint_is_the_model_s(live: Live, serve: Servers) -> None:
    told = {live.chat("a").json()["system_fingerprint"], live.chat("b").json()["system_fingerprint"]}
    told |= {chunk["system_fingerprint"] for chunk in events(live.chat("c", stream=True))[:-1]}

    assert len(told) == 1
    assert serve(ctx=1024).chat("a").json()["system_fingerprint"] not in told


def test_variables_of_the_template(live: Live) -> None:
    answer = live.chat("hello", chat_template_kwargs={"enable_thinking": False, "x": 1}, reasoning_effort="none")
    refused = live.chat("hello", chat_template_kwargs={"enable_thinking": "yes"})

    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert refused.json()["error"]["param"] == "chat_template_kwargs.enable_thinking"


@pytest.mark.parametrize("fields", [{}, {"chat_template_kwargs": {"enable_thinking": True}}])
def test_thinking_has_a_field_of_its_own(live: Live, fields: dict[str, Any]) -> None:
    answer = live.chat("hello", enable_thinking=True, **fields)
    refused = live.chat("hello", enable_thinking=False, chat_template_kwargs={"enable_thinking": True})

    assert answer.json()["notes"] == ["thinking_unsupported"]
    assert "x-edgellm-ignored" not in answer.headers
    assert refused.json()["error"]["param"] == "enable_thinking"


@pytest.mark.parametrize("field", ["logit_bias", "prompt"])
def test_what_only_the_model_can_refuse_names_its_field(live: Live, field: str) -> None:
    body = {"logit_bias": {"prompt": "a", "logit_bias": {"99999": 1}}, "prompt": {"prompt": [[]]}}[field]

    assert live.post("/v1/completions", body).json()["error"]["param"] == field


def test_a_suffix_needs_a_model_that_fills_in(live: Live) -> None:
    answer = live.post("/v1/completions", {"prompt": "a", "suffix": "b"})
    ids = live.post("/v1/completions", {"prompt": [1], "suffix": "b"})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "suffix")
    assert answer.json()["error"]["code"] == "unsupported_field"
    assert ids.json()["error"]["param"] == "suffix"
    assert texts(live.post("/v1/completions", {"prompt": "a", "suffix": ""})) == ["a"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_logprobs_of_a_prompt(live: Live, stream: bool) -> None:
    """The echo model finds only what it says likely: the end token behind a prompt, and that prompt in its answer."""
    body = {"prompt": "ab", "echo": True, "logprobs": 1, "n": 2, "max_tokens": 2}
    answer = live.post("/v1/completions", {**body, "stream": stream})
    told: dict[int, dict[str, list[Any]]] = {0: {}, 1: {}}
    for chunk in events(answer)[:-1] if stream else [answer.json()]:
        for choice in chunk["choices"]:
            for name, values in (choice["logprobs"] or {}).items():
                told[choice["index"]].setdefault(name, []).extend(values)

    assert told[0] == told[1]
    assert told[0]["tokens"] == ["a", "b", "", "a", "b"]
    assert told[0]["text_offset"] == [0, 1, 2, 2, 3]
    assert told[0]["token_logprobs"] == [None, pytest.approx(-100), *[pytest.approx(0, abs=1e-9)] * 3]
    assert told[0]["top_logprobs"][0] is None
    assert told[0]["top_logprobs"][1]["b"] == pytest.approx(-100)


def test_an_answer_without_a_token_has_logprobs_all_the_same(live: Live) -> None:
    """Clients look into them where they asked for them."""
    ends_at_once = {"logit_bias": {"97": -100, "256": 100}, "temperature": 0}
    body = live.post("/v1/completions", {"prompt": "a", "logprobs": 1, **ends_at_once}).json()

    assert body["choices"][0]["text"] == ""
    assert body["choices"][0]["logprobs"] == {
        "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [],
    }  # fmt: skip
    assert body["usage"]["completion_tokens"] == 0

    chat = {"messages": [{"role": "user", "content": "a"}], "logprobs": True, **ends_at_once}
    assert live.post("/v1/chat/completions", chat).json()["choices"][0]["logprobs"] == {"content": [], "refusal": None}


def test_only_the_prompt_is_told_where_no_token_may_come(live: Live) -> None:
    body = {"prompt": ["ab", "c"], "echo": True, "logprobs": 0, "max_tokens": 0}
    answer = live.post("/v1/completions", body)

    assert texts(answer) == ["ab", "c"]
    assert [choice["logprobs"]["tokens"] for choice in answer.json()["choices"]] == [["a", "b", ""], ["c", ""]]
    assert answer.json()["usage"]["completion_tokens"] == 0


def test_a_prompt_of_token_ids_comes_back_as_text(live: Live) -> None:
    assert texts(live.post("/v1/completions", {"prompt": [104, 105, 256], "echo": True})) == ["hihi"]
