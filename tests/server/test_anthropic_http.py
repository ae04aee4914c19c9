"""`/v1/messages` and `/v1/messages/count_tokens` of a server that runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from support.live_server import Live, Servers

ISOLATE = False  # a process for a model costs more than most of these tests, and changes none of their answers


HELLO = {"role": "user", "content": "hello"}
CITY = {"type": "object", "properties": {"city": {"enum": ["Bonn"]}}, "required": ["city"]}
WEATHER = {"name": "weather", "input_schema": CITY}
PATH = "/v1/messages"
SLOW_S = 0.02  # a step of the echo model
FOREVER_S = 0.16
LONG = "x" * 2000


def ask(live: Live, *messages: Any, **fields: Any) -> httpx.Response:
    return live.post(PATH, {"max_tokens": 200, "messages": list(messages) or [HELLO], **fields})


def events(answer: httpx.Response) -> Iterator[Any]:
    for line in answer.text.splitlines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def said(told: Any) -> str:
    return "".join(one["delta"].get("text", "") for one in told if one["type"] == "content_block_delta")


def test_whole_and_streamed(live: Live) -> None:
    whole, stream = ask(live, temperature=0), list(events(ask(live, stream=True)))

    assert whole.status_code == 200
    assert whole.json()["content"] == [{"type": "text", "text": "hello"}]
    assert (whole.json()["model"], whole.json()["stop_reason"]) == ("echo", "end_turn")
    assert said(stream) == "hello"
    assert [stream[0]["type"], stream[-1]["type"]] == ["message_start", "message_stop"]


@pytest.mark.parametrize("path", ["/messages", "/v1/messages?beta=true"])
def test_other_addresses(live: Live, path: str) -> None:
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "a-2026-01-01,b"}
    answer = live.post(path, {"max_tokens": 9, "messages": [HELLO]}, headers=headers)

    assert (answer.status_code, answer.headers.get("x-edgellm-ignored")) == (200, None)


def test_stop_sequences_are_told(live: Live) -> None:
    answer = ask(live, {"role": "user", "content": "one END two"}, stop_sequences=["two", "END"]).json()

    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")
    assert answer["content"][0]["text"] == "one "


def test_how_much_may_be_said(serve: Servers) -> None:
    small = serve(ctx=256)

    assert ask(small, max_tokens=2).json()["stop_reason"] == "max_tokens"
    filled = ask(small, {"role": "user", "content": "x" * 200}, max_tokens=1000).json()
    assert filled["stop_reason"] == "model_context_window_exceeded"


def test_a_prompt_is_counted_as_it_is_read(live: Live) -> None:
    prompt = {"system": "Be brief.", "messages": [HELLO], "tools": [WEATHER]}
    counted = live.post(f"{PATH}/count_tokens", prompt).json()
    stream = list(events(live.post(PATH, {**prompt, "max_tokens": 1, "stream": True})))

    assert counted.keys() == {"input_tokens"}
    for usage in (stream[0]["message"]["usage"], stream[-2]["usage"]):
        assert usage["input_tokens"] + usage["cache_read_input_tokens"] == counted["input_tokens"]


def test_a_forced_call_is_an_object(live: Live) -> None:
    forced = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}, "seed": 1}
    (call,) = ask(live, **forced).json()["content"]
    stream = list(events(ask(live, **forced, stream=True)))
    arguments = "".join(one["delta"].get("partial_json", "") for one in stream if "delta" in one)

    assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Bonn"})
    assert json.loads(arguments) == {"city": "Bonn"}
    assert stream[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_call_that_is_cut_ends_as_every_other(live: Live) -> None:
    forced = {"tools": [WEATHER], "tool_choice": {"type": "any"}, "max_tokens": 45, "stream": True, "seed": 1}
    stream = list(events(ask(live, **forced)))
    kinds = [one["type"] for one in stream if one["type"] not in ("ping", "content_block_delta")]

    assert kinds == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]
    assert stream[-2]["delta"]["stop_reason"] == "max_tokens"


def test_a_conversation_with_tools_goes_back_as_it_came(live: Live) -> None:
    first = ask(live, tools=[WEATHER], tool_choice={"type": "any", "disable_parallel_tool_use": True}, seed=1).json()
    (call,) = first["content"]
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "sunny"}]}
    sent = [HELLO, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": [result]}]
    answer = ask(live, *sent, tools=[WEATHER])

    assert answer.status_code == 200
    assert "sunny" in answer.json()["content"][0]["text"]


def test_the_billing_block_costs_no_prefix(serve: Servers) -> None:
    live = serve()
    usages = []
    for checksum in ("1f3a", "77b0"):
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={checksum};"}
        system = [billing, {"type": "text", "text": "Be brief. " * 20}]
        usages.append(ask(live, system=system, max_tokens=1).json()["usage"])

    assert usages[1]["cache_read_input_tokens"] >= 0.95 * usages[0]["input_tokens"]


def test_an_answer_goes_on(live: Live) -> None:
    answer = ask(live, HELLO, {"role": "assistant", "content": "Once upon"})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"model": "claude-opus-4"}, 404, "not_found_error"),
        ({"temperature": -1}, 400, "invalid_request_error"),
        ({"max_tokens": 0}, 400, "invalid_request_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"stop_sequences": [""]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "invalid_request_error"),
    ],
)
def test_errors(live: Live, fields: dict[str, Any], status: int, kind: str) -> None:
    answer = live.post(PATH, {"max_tokens": 9, "messages": [HELLO], **fields})
    told = answer.json()

    assert (answer.status_code, told["type"], told["error"]["type"]) == (status, "error", kind)
    assert told["request_id"] == answer.headers["x-request-id"] == answer.headers["request-id"]


DEEP: Any = {}
for _ in range(200):
    DEEP = {"a": DEEP}
HOSTILE = [
    b"",
    b"[]",
    b"{",
    b'{"messages": ' + b"[" * 100_000,
    b'{"max_tokens": 1, "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", '
    b'"input": ' + b'{"a": ' * 990 + b"1" + b"}" * 990 + b"}]}, " + json.dumps(HELLO).encode() + b"]}",
    b'{"max_tokens": 1e999, "messages": []}',
    json.dumps(
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 5000}]}
    ).encode(),
    json.dumps({"max_tokens": 1, "messages": [HELLO] * 5000}).encode(),
    json.dumps({"max_tokens": 1, "messages": [HELLO], "tools": [WEATHER] * 200}).encode(),
    json.dumps({"max_tokens": 1, "messages": [HELLO], "tools": [{**WEATHER, "input_schema": DEEP}]}).encode(),
    json.dumps({"max_tokens": 1, "messages": [HELLO], "tools": [WEATHER, WEATHER]}).encode(),
    json.dumps({"max_tokens": 1, "messages": [HELLO], "tools": [{"type": ["bash_1"], "name": 1}]}).encode(),
    json.dumps({"max_tokens": True, "messages": [HELLO]}).encode(),
    json.dumps({"max_tokens": 2**70, "messages": [HELLO]}).encode(),
    json.dumps({"max_tokens": 1, "messages": {"role": "user"}}).encode(),
    json.dumps({"max_tokens": 1, "messages": [None, 1, "x"]}).encode(),
    json.dumps({"max_tokens": 1, "messages": [{"role": "user", "content": {"type": "text"}}]}).encode(),
    json.dumps({"max_tokens": 1, "messages": [HELLO], "system": [{"type": "text", "text": 1}]}).encode(),
    json.dumps({"max_tokens": 1, "messages": [HELLO], "tool_choice": "auto"}).encode(),
    json.dumps(
        {"max_tokens": 1, "messages": [HELLO], "thinking": {"type": "enabled", "budget_tokens": 2**64}}
    ).encode(),
    json.dumps(
        {"max_tokens": 1, "messages": [HELLO], "output_config": {"format": {"type": "json_schema", "schema": DEEP}}}
    ).encode(),
]


@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bodies_are_refused(live: Live, path: str, body: bytes) -> None:
    answer = live.http.post(path, content=body, headers={"content-type": "application/json"})

    assert answer.status_code in ((400,) if path == PATH else (200, 400))
    assert answer.status_code == 200 or answer.json()["error"]["type"] == "invalid_request_error"


def answers(live: Live) -> bool:
    """Whether the only slot is free: LONG takes longer than the client waits."""
    return bool(ask(live, {"role": "user", "content": "hi"}).json()["content"])


def test_a_client_that_leaves_frees_its_slot(serve: Servers) -> None:
    live = serve(step_s=FOREVER_S)
    body = {"max_tokens": 2000, "messages": [{"role": "user", "content": LONG}]}
    with live.http.stream("POST", PATH, json={**body, "stream": True}) as answer:
        next(answer.iter_bytes())
    assert answers(live)
    with pytest.raises(httpx.ReadTimeout):
        live.post(PATH, body, timeout=0.4)
    assert answers(live)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_worker_that_dies_in_mid_stream_is_an_error_event(serve: Servers) -> None:
    live = serve(step_s=SLOW_S, isolate=True)
    body = {"max_tokens": 2000, "messages": [{"role": "user", "content": LONG}], "stream": True}
    worker, received = live.llm._session.pid, []  # type: ignore[attr-defined]
    with live.http.stream("POST", PATH, json=body) as answer:
        for line in filter(None, answer.iter_lines()):
            received.append(line)
            if line == "event: content_block_delta":
                os.kill(worker, signal.SIGKILL)
    error = json.loads(received[-1].removeprefix("data: "))

    assert received[-2] == "event: error"
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert "event: message_stop" not in received


def test_models_are_listed_as_anthropic_s(live: Live) -> None:
    theirs = {"anthropic-version": "2023-06-01"}
    listed, one, none = (live.http.get(f"/v1/models{name}", headers=theirs) for name in ("", "/echo", "/gpt-4"))
    model = one.json()

    assert listed.json() == {"data": [model], "first_id": "echo", "last_id": "echo", "has_more": False}
    assert (model["type"], model["id"], model["display_name"]) == ("model", "echo", "echo")
    assert datetime.fromisoformat(model["created_at"]).timestamp() == live.http.get("/v1/models/echo").json()["created"]
    assert model["max_input_tokens"] == live.llm.plan.settings.n_ctx
    assert (none.status_code, none.json()["error"]["type"]) == (404, "not_found_error")


def test_a_key(serve: Servers) -> None:
    locked = serve(api_key="s3cret-key")
    body = {"max_tokens": 9, "messages": [HELLO]}

    assert locked.post(PATH, body).status_code == 401
    assert locked.post(PATH, body, headers={"x-api-key": "s3cret-key"}).status_code == 200
