"""One line for each request, with its id, tokens and times, and without what was asked or answered."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.live_server import Live, Servers
from support.waiting import wait_until

from edgellm.server.crowd import Deadlines

ISOLATE = False  # a process for a model costs more than most of these tests, and changes none of their answers


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
SECRET = "a secret that nobody else may read"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "edgellm.requests")
    return caplog


def only(log: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The facts of the one line that there is, or comes."""
    wait_until(lambda: requests_in(log))
    (line,) = requests_in(log)
    facts: dict[str, Any] = line.facts  # type: ignore[attr-defined]
    assert SECRET not in str(vars(line))
    return facts


def requests_in(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [line for line in log.records if line.name == "edgellm.requests"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_line_has_the_tokens_and_the_times(live: Live, log: pytest.LogCaptureFixture, stream: bool) -> None:
    answer = live.chat(SECRET, stream=stream)
    facts = only(log)

    assert facts["id"] == answer.headers["x-request-id"]
    assert facts | {"id": "", "first_ms": 0, "ms": 0, "cached_tokens": 0} == {
        "id": "",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "first_ms": 0,
        "ms": 0,
        "prompt_tokens": len(SECRET) + 1,
        "cached_tokens": 0,
        "completion_tokens": len(SECRET),
    }
    assert 0 < facts["first_ms"] <= facts["ms"]


def test_a_client_cannot_choose_its_address(live: Live, log: pytest.LogCaptureFixture) -> None:
    live.http.get("/health", headers={"x-forwarded-for": "x status=200 path=/admin"})

    assert only(log)["client"] == "127.0.0.1"


def test_vectors_have_their_tokens(live: Live, log: pytest.LogCaptureFixture) -> None:
    live.post("/v1/embeddings", {"input": SECRET})

    assert only(log)["prompt_tokens"] == len(SECRET) + 1


def test_the_id_of_a_client_is_kept(live: Live, log: pytest.LogCaptureFixture) -> None:
    answer = live.http.get("/health", headers={"x-request-id": "trace-7:a.b_c"})

    assert answer.headers["x-request-id"] == only(log)["id"] == "trace-7:a.b_c"


@pytest.mark.parametrize("sent", ["", "with blank", "x" * 129, "a=b", "tab\there"])
def test_an_id_that_could_spoil_a_line_is_replaced(live: Live, log: pytest.LogCaptureFixture, sent: str) -> None:
    answer = live.http.get("/health", headers={"x-request-id": sent})

    assert answer.headers["x-request-id"] == only(log)["id"] != sent
    assert only(log)["id"].isalnum()


def test_what_is_refused_has_its_code(live: Live, log: pytest.LogCaptureFixture) -> None:
    answer = live.chat("x", top_p=2)
    facts = only(log)

    assert answer.headers["x-request-id"] == facts["id"]
    assert (facts["status"], facts["error"]) == (400, "usage_error")


def test_what_the_guard_refuses_has_its_code(live: Live, log: pytest.LogCaptureFixture) -> None:
    live.http.get("/v1/models", headers={"host": "evil.example"})

    assert only(log)["error"] == "wrong_host"


def test_a_path_stays_on_its_line_and_has_no_query(live: Live, log: pytest.LogCaptureFixture) -> None:
    live.http.get(f"/no%0Awhere?q={SECRET}")

    assert only(log)["path"] == "/no%0Awhere"


@pytest.mark.parametrize("sent", ["a part", "the whole"])
def test_a_client_that_hangs_up_before_the_answer_is_named_as_such(
    serve: Servers, log: pytest.LogCaptureFixture, sent: str
) -> None:
    live = serve(step_s=0.05)
    body = b'{"prompt":"%s"}' % (b"x" * 1000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with live.connection() as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        connection.sendall(body if sent == "the whole" else body[:10])
        wait_until(lambda: live.server.server_state.tasks)

    assert only(log)["error"] == "client_closed"


def test_a_client_that_hung_up_is_named_as_such(serve: Servers, log: pytest.LogCaptureFixture) -> None:
    live = serve(step_s=0.05)
    body = {"prompt": "x" * 1000, "max_tokens": 1000, "stream": True}
    with live.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)

    assert only(log)["error"] == "client_closed"


def test_a_body_that_is_too_late_is_named_as_such(serve: Servers, log: pytest.LogCaptureFixture) -> None:
    live = serve(deadlines=Deadlines(body_s=0.1, body_bytes=10_000_000))
    with live.connection() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")
    facts = only(log)

    assert (facts["status"], facts["error"]) == (408, "request_timeout")


def test_a_body_that_cannot_be_read_has_one_line(live: Live, log: pytest.LogCaptureFixture) -> None:
    with live.connection() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        wait_until(lambda: live.server.server_state.tasks)
        connection.sendall(b"no length\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    wait_until(lambda: not live.server.server_state.tasks)
    facts = only(log)

    assert (facts["path"], facts["status"], facts["error"]) == ("/v1/completions", 400, "malformed")


def test_nothing_is_written_where_nobody_reads_it(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    live.chat("x")

    assert not caplog.records
