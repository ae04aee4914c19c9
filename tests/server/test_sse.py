"""Streams: clients that leave, workers that die, and what a chunk costs."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable

import httpx
import pytest
from support.live_server import Live, Servers
from support.waiting import PATIENCE_S, wait_until

from edgellm.server import sse
from edgellm.server.sse import Template

ISOLATE = False  # a process for a model costs more than most of these tests, and changes none of their answers


SLOW_S = 0.02  # a step of the echo model: 50 tokens per second
LONG = "x" * 2000
FOREVER_S = 0.16  # a step: LONG takes 320 s, longer than any test may run and than a client waits


def lines(answer: httpx.Response) -> list[str]:
    return [line for line in answer.iter_lines() if line]


def test_a_template_has_one_hole() -> None:
    chunk = Template({"a": "\0", "b": 1}, "\0")
    assert chunk.fill('say "hi"\n') == b'data: {"a":"say \\"hi\\"\\n","b":1}\n\n'


def answers(live: Live) -> bool:
    """Whether the only slot is free: "hi" takes 4 steps, the rest of LONG more than the client waits."""
    return live.post("/v1/completions", {"prompt": "hi"}).json()["choices"][0]["text"] == "hi"


def once_asked(live: Live, act: Callable[[], object]) -> None:
    """Do it, in a thread, as soon as a request is open."""

    def go() -> None:
        wait_until(lambda: len(live.llm._session._dispatcher) > 0)
        act()

    threading.Thread(target=go).start()


def test_a_client_that_leaves_a_stream_frees_its_slot(serve: Servers) -> None:
    live = serve(step_s=FOREVER_S, isolate=True)
    with live.http.stream(
        "POST", "/v1/completions", json={"prompt": LONG, "max_tokens": 2000, "stream": True}
    ) as answer:
        next(answer.iter_bytes())

    assert answers(live)


def test_a_client_that_leaves_without_a_stream_frees_its_slot(serve: Servers) -> None:
    live = serve(step_s=FOREVER_S)
    with pytest.raises(httpx.ReadTimeout):
        live.post("/v1/completions", {"prompt": LONG, "max_tokens": 2000}, timeout=0.4)

    assert answers(live)


def test_a_client_that_leaves_in_the_queue_is_forgotten(serve: Servers) -> None:
    live = serve(step_s=FOREVER_S)
    with live.http.stream(
        "POST", "/v1/completions", json={"prompt": LONG, "max_tokens": 2000, "stream": True}
    ) as first:
        next(first.iter_bytes())
        with pytest.raises(httpx.ReadTimeout):
            live.post("/v1/completions", {"prompt": LONG, "max_tokens": 2000}, timeout=0.2)

    assert answers(live)


def test_a_client_that_only_closes_its_side_is_gone(serve: Servers) -> None:
    live = serve(step_s=FOREVER_S)
    body = json.dumps({"prompt": LONG, "max_tokens": 2000, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(100)
        connection.shutdown(socket.SHUT_WR)
        assert answers(live)


def test_streams_run_beside_each_other(serve: Servers) -> None:
    live = serve(step_s=0.001, slots=4)
    answers_by_client: dict[int, str] = {}

    def go(number: int) -> None:
        text = f"client {number} " * 20
        with httpx.Client(base_url=live.url, timeout=PATIENCE_S) as client:
            answer = client.post("/v1/completions", json={"prompt": text, "max_tokens": 999, "stream": True})
        chunks = [json.loads(line[6:]) for line in lines(answer)[:-1]]
        answers_by_client[number] = "".join(chunk["choices"][0]["text"] for chunk in chunks)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers_by_client == {number: f"client {number} " * 20 for number in range(12)}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_worker_that_dies_in_mid_stream_is_an_error_event(serve: Servers, name: str) -> None:
    live = serve(step_s=SLOW_S, isolate=True)
    old = live.llm._session.pid
    with live.http.stream(
        "POST", "/v1/completions", json={"prompt": LONG, "max_tokens": 2000, "stream": True}
    ) as answer:
        received = []
        for line in filter(None, answer.iter_lines()):
            received.append(line)
            if len(received) == 3:
                os.kill(old, getattr(signal, name))
    error = json.loads(received[-1].removeprefix("data: "))["error"]

    assert (error["code"], error["type"]) == ("worker_crashed", "server_error")
    assert name in error["message"]
    assert "data: [DONE]" not in received
    assert live.post("/v1/completions", {"prompt": "hi"}).json()["choices"][0]["text"] == "hi"
    assert live.llm._session.pid != old
    assert not _alive(old)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_worker_that_dies_before_the_answer_is_a_status(serve: Servers) -> None:
    live = serve(step_s=SLOW_S, isolate=True)
    once_asked(live, lambda: os.kill(live.llm._session.pid, signal.SIGKILL))
    answer = live.post("/v1/completions", {"prompt": LONG, "max_tokens": 2000})

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_crashed")
    assert answer.headers["retry-after"] == "1"


def test_closing_the_model_ends_streams_with_an_error(serve: Servers) -> None:
    live = serve(step_s=SLOW_S)
    with live.http.stream(
        "POST", "/v1/completions", json={"prompt": LONG, "max_tokens": 2000, "stream": True}
    ) as answer:
        received = []
        for line in filter(None, answer.iter_lines()):
            received.append(line)
            if len(received) == 2:
                threading.Thread(target=live.llm.close).start()
    wait_until(lambda: live.llm.state == "closed")
    assert json.loads(received[-1].removeprefix("data: "))["error"]["code"] == "closed"


def test_closing_the_model_ends_other_answers_with_a_status(serve: Servers) -> None:
    live = serve(step_s=SLOW_S)
    once_asked(live, live.llm.close)
    answer = live.post("/v1/completions", {"prompt": LONG, "max_tokens": 2000})

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "closed")


def test_requests_leave_nothing_behind(serve: Servers) -> None:
    live = serve()
    for _ in range(50):
        live.post("/v1/completions", {"prompt": "x", "stream": True})
    wait_until(lambda: not live.server.server_state.tasks)

    assert len(live.llm._session._dispatcher) == 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_stream_is_not_held_back(serve: Servers) -> None:
    """The first piece is here while the rest, half an hour of it, is still to come."""
    live = serve(step_s=FOREVER_S)
    with live.http.stream(
        "POST", "/v1/completions", json={"prompt": LONG, "max_tokens": 2000, "stream": True}
    ) as answer:
        assert answer.headers["x-accel-buffering"] == "no"
        assert next(answer.iter_bytes()).startswith(b"data: ")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_a_stream_whose_answer_does_not_begin_has_comments(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    live = serve(isolate=True)
    live.hold()
    with live.http.stream("POST", "/v1/completions", json={"prompt": "hello", "stream": True}) as answer:
        lines = answer.iter_lines()
        told = [next(lines) for _ in range(6)]
        live.release()
        rest = [line for line in lines if line and not line.startswith(":")]

    assert told == [": wait", ""] * 3
    assert rest[-1] == "data: [DONE]"
    assert "".join(json.loads(line[6:])["choices"][0]["text"] for line in rest[:-1]) == "hello"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_whoever_leaves_before_the_answer_begins_frees_the_place(
    serve: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    live = serve(step_s=FOREVER_S, isolate=True)
    live.hold()
    body = {"prompt": LONG, "max_tokens": 2000, "stream": True}
    with live.http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_bytes())
    live.release()

    assert answers(live)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_whoever_leaves_before_the_first_comment_frees_the_place(serve: Servers) -> None:
    live = serve(step_s=FOREVER_S, isolate=True)
    live.hold()
    with pytest.raises(httpx.ReadTimeout):
        live.post("/v1/completions", {"prompt": LONG, "max_tokens": 2000, "stream": True}, timeout=0.4)
    live.release()

    assert answers(live)
