"""Requests that are not HTTP, or are HTTP that costs the server more than the client: refused, and read in turns."""

from __future__ import annotations

import json
import logging

import h11
import pytest
from support.live_server import Live

from edgellm.server.framing import (
    CHUNK_BYTES,
    EVENTS,
    FREE_CHUNKS,
    FREE_PIECES,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    SMALL_BYTES,
    Framing,
)
from edgellm.server.intake import MAX_BODY_BYTES

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
TINY = b"1\r\n \r\n"


def answers(live: Live, sent: bytes) -> bytes:
    """All that comes until the server closes, which it does before or after all was sent."""
    parts = []
    with live.connection() as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionError:
            pass
    return b"".join(parts)


def chunked(body: bytes, size: int) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + LAST


def events(framing: Framing) -> list[object]:
    """Of one turn."""
    framing.begin_turn()
    read: list[object] = []
    while (event := framing.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        read.append(event)
    return read


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        ("http://127.0.0.1:8080/health?x=http://a/b", b"127.0.0.1:8080", b"/health?x=http://a/b"),
        ("HTTP://evil.example", b"evil.example", b"/"),
        ("http://evil.example?x", b"evil.example", b"/?x"),
        ("http://127.0.0.1@evil.example/x", b"127.0.0.1@evil.example", b"/x"),
        ("/http://evil.example/", b"localhost", b"/http://evil.example/"),
        ("https://evil.example/", b"localhost", b"https://evil.example/"),
        ("http:///x", b"localhost", b"http:///x"),
    ],
)
def test_of_a_whole_address_its_host_counts(target: str, host: bytes, path: bytes) -> None:
    framing = Framing()
    framing.receive_data(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n".encode())
    request, _ = events(framing)

    assert isinstance(request, h11.Request)
    assert (request.target, dict(request.headers)) == (path, {b"host": host, b"x": b"y"})


def test_a_whole_address_is_no_way_around_the_rules_for_hosts(live: Live) -> None:
    rest = b"HTTP/1.1\r\nConnection: close\r\nHost: "

    assert answers(live, b"GET http://evil.example/v1/models " + rest + b"127.0.0.1\r\n\r\n").startswith(
        b"HTTP/1.1 403"
    )
    assert answers(live, b"GET http://127.0.0.1/v1/models " + rest + b"evil.example\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )


def test_tiny_chunks_are_refused(live: Live) -> None:
    answer = answers(live, CHUNKED + TINY * (FREE_CHUNKS + 20))

    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "malformed"
    assert answer.count(b"HTTP/1.1 4") == 1
    assert live.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("n_bytes", "size"),
    [(FREE_CHUNKS - 100, 1), (100_000, CHUNK_BYTES), (9_000_000, 65536), (200_000, 100), (5_000_000, 1024)],
    ids=str,
)
def test_honest_chunks_are_read_whole_and_so_is_what_follows(live: Live, n_bytes: int, size: int) -> None:
    body = b'{"prompt":"hello"' + b" " * (n_bytes - 18) + b"}"
    follower = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    answer = answers(live, CHUNKED + chunked(body, size) + follower)

    assert answer.count(b"HTTP/1.1 200") == 2
    assert b'"hello"' in answer


def test_a_turn_reads_few_of_many_chunks() -> None:
    framing = Framing()
    framing.receive_data(CHUNKED + TINY * 2 * FREE_CHUNKS)
    turns = 0
    n_chunks = 0
    while framing.malformed is None:
        read = events(framing)
        assert len(read) <= EVENTS
        assert framing.interrupted or framing.malformed
        n_chunks += len(read)
        turns += 1

    assert FREE_CHUNKS <= n_chunks <= FREE_CHUNKS + 20
    assert turns == n_chunks // EVENTS + 1
    assert events(framing) == []


def test_what_frames_chunks_counts_too() -> None:
    framing = Framing()
    framing.receive_data(CHUNKED)
    events(framing)
    chunk = b"200;" + b"x" * 16_000 + b"\r\n" + b" " * 512 + b"\r\n"
    n_sent = 0
    while framing.malformed is None and n_sent < 2 * MAX_BODY_BYTES:
        framing.receive_data(chunk)
        n_sent += len(chunk)
        events(framing)

    assert framing.malformed is not None
    assert n_sent < MAX_BODY_BYTES + MAX_BODY_BYTES // 10


def chunks_of(size: int) -> Framing:
    framing = Framing()
    framing.receive_data(CHUNKED + chunked(b" " * size * FREE_PIECES * 3, size))
    return framing


def test_what_comes_in_small_pieces_is_noticed_after_a_few() -> None:
    framing = chunks_of(100)
    turns = 0
    while not framing.in_small_pieces:
        events(framing)
        turns += 1

    assert FREE_PIECES // EVENTS <= turns <= 2 * FREE_PIECES // EVENTS


def test_pieces_of_some_hundred_bytes_are_no_small_ones() -> None:
    framing = chunks_of(SMALL_BYTES)
    while any(isinstance(event, h11.Data) for event in events(framing)):
        assert not framing.in_small_pieces


def test_bytes_that_come_one_by_one_are_small_pieces_until_the_next_request() -> None:
    framing = Framing()
    for byte in HEAD + b"Content-Length: 1\r\n\r\n ":
        framing.receive_data(bytes([byte]))
        events(framing)
    assert framing.in_small_pieces
    for event in (h11.Response(status_code=200, headers=[(b"content-length", b"0")]), h11.EndOfMessage()):
        framing.send(event)
    framing.start_next_cycle()

    assert not framing.in_small_pieces


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"SSH-2.0-x\r\n\r\n", 400, id="another protocol"),
        pytest.param(b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n", 400, id="lines end with LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\r\n c\r\n\r\n", 400, id="a folded line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\nC: d\r\n\r\n", 400, id="one line ends with LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:b\r\n" * MAX_HEAD_LINES + b"\r\n", 431, id="many headers"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, id="a long header"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"b" * MAX_HEAD_BYTES, 431, id="a long beginning"),
        pytest.param(CHUNKED + b"x\r\n", 400, id="no chunk"),
        pytest.param(CHUNKED.replace(b"1.1", b"1.0") + LAST, 400, id="chunks in HTTP/1.0"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501, id="another encoding"),
    ],
)
def test_what_cannot_be_read_is_refused_in_json(live: Live, sent: bytes, status: int) -> None:
    answer = answers(live, sent)
    head, _, body = answer.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["message"]


def test_the_log_says_who_sent_it_and_nothing_else(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answers(live, b"nonsense\r\n\r\n")
    upgrade = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    answer = answers(live, upgrade)

    assert answer.startswith(b"HTTP/1.1 200")
    first = next(line for line in caplog.records if line.name == "edgellm.requests")
    assert first.facts == {"client": "127.0.0.1", "status": 400, "error": "malformed"}  # type: ignore[attr-defined]
    assert [line for line in caplog.records if line.levelno > logging.INFO] == []
