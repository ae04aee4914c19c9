"""The front without Ray: what it refuses before a box is asked, and what strangers do to it."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("aiohttp")
from edgellm_ray import asked, caller
from edgellm_ray.events import SSE, StreamEvent
from edgellm_ray.gateway import MOST_CRASHES
from edgellm_ray.resume import SentStream
from edgellm_ray.token import make_token
from support.cluster_front import KEY, OneBox, front, one_box
from support.dialect_streams import QUESTION, REQUESTS, drawn_by, forms, texts
from support.waiting import PATIENCE_S

from edgellm.runtime import loop
from edgellm.server import continued
from edgellm.server.crowd import Deadlines
from edgellm.server.intake import MAX_BODY_BYTES

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
NEVER = 3600.0


@pytest.fixture(autouse=True)
def _in_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another module may have started one in this process."""
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)


@pytest.fixture(scope="module")
def box() -> Iterator[OneBox]:
    with one_box(KEY) as box:
        yield box


def connection(client: httpx.Client, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.base_url.port), PATIENCE_S, (source, 0))


def received(from_server: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := from_server.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("target", ["*@127.0.0.1:9/secret", "@127.0.0.1:9/secret", "*"])
def test_no_other_host_is_asked(box: OneBox, target: str) -> None:
    """Behind the address of Ray's proxy, `@` makes of it a user's name."""
    with front(box) as client, connection(client) as raw:
        raw.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        assert received(raw).startswith(b"HTTP/1.1 400")
        assert box.paths == []


def test_a_whole_address_is_asked_of_a_box(box: OneBox) -> None:
    """As programs write it that take the server for a proxy: the host in it is not asked."""
    own = f"Host: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    with front(box) as client, connection(client) as raw:
        raw.sendall(f"GET http://127.0.0.1:9/health HTTP/1.1\r\n{own}".encode())
        assert received(raw).startswith(b"HTTP/1.1 200")
        assert box.paths == ["/health"]


@pytest.mark.parametrize("path", ["/web/../../-/routes", "/web/%2e%2e/%2e%2e/-/routes"])
def test_a_path_goes_on_as_it_was_sent(box: OneBox, path: str) -> None:
    """Without its dots it would be one of Ray's proxy itself, and those below /web/ need no key."""
    with front(box) as client, connection(client) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        received(raw)
        assert [one.partition("/web/")[1] for one in box.paths] == ["/web/"]


def test_the_key_is_asked_for_before_a_body_is_read(box: OneBox) -> None:
    with front(box) as client, connection(client) as stranger:
        stranger.sendall(HEAD + f"Content-Length: {MAX_BODY_BYTES}\r\n\r\n".encode())
        assert stranger.recv(12) == b"HTTP/1.1 401"
        assert client.get("/health", headers={"authorization": ""}).status_code == 200
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert box.paths == ["/health", "/v1/chat/completions"]


def test_without_a_key_only_its_own_names_are_answered(box: OneBox) -> None:
    with front(box, key=None) as client:
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
        assert box.paths == []


def test_bodies_that_do_not_end_leave_room_for_others(box: OneBox) -> None:
    """Seven of 10 MiB, of one who has the key, are more than all bodies together may take."""
    own = f"Authorization: Bearer {KEY}\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n".encode()
    with front(box, deadlines=Deadlines(body_s=NEVER)) as client, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connection(client)) for _ in range(7)]
        for raw in silent[:6]:
            raw.sendall(HEAD + own + b" " * (MAX_BODY_BYTES - 1))
        silent[6].sendall(HEAD + own)
        with contextlib.suppress(ConnectionError):
            silent[6].sendall(b" " * (MAX_BODY_BYTES - 1))
        refused = silent[6].recv(12)
        honest = client.post("/v1/chat/completions", json=CHAT)

    assert (refused, honest.status_code) == (b"HTTP/1.1 503", 200)


def test_headers_and_bodies_have_deadlines(box: OneBox) -> None:
    deadlines = Deadlines(headers_s=0.1, body_s=0.1, body_bytes=10_000_000)
    with front(box, deadlines=deadlines) as client:
        with connection(client) as raw:
            raw.sendall(HEAD)
            assert received(raw).startswith(b"HTTP/1.1 408")
        with connection(client) as raw:
            raw.sendall(HEAD + f"Authorization: Bearer {KEY}\r\nContent-Length: 1000\r\n\r\nx".encode())
            assert received(raw).startswith(b"HTTP/1.1 408")


def test_silent_connections_give_way(box: OneBox) -> None:
    with front(box, most=4, deadlines=Deadlines(headers_s=NEVER)) as client, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connection(client, "127.0.0.2")) for _ in range(6)]

        assert [received(raw) for raw in silent[:2]] == [b"", b""]
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


async def test_who_leaves_within_a_body_asks_nothing() -> None:
    messages = [{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict:
        return messages.pop(0)

    assert await asked.received(receive) is None


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"messages": 5}', b"\xff", b"[" * 100_000, b"[0," * 200_000])
def test_what_no_model_would_be_asked_with_is_no_conversation(body: bytes) -> None:
    assert asked.read(body) == asked.Meaning("", False)


def test_a_long_conversation_is_read_by_its_beginning() -> None:
    long = [*CHAT["messages"], {"role": "assistant", "content": "x" * 10**6}]

    assert asked.read(json.dumps({"messages": long}).encode()).session == asked.read(json.dumps(CHAT).encode()).session


@pytest.mark.parametrize(
    ("fields", "is_repeatable"),
    [
        ({"temperature": 0}, True),
        ({"seed": 7}, True),
        ({"options": {"seed": 7}}, True),
        ({"seed": -1}, False),
        ({"seed": 7, "n": 2}, False),
        ({"seed": 7, "logprobs": True}, False),
        ({"seed": 7, "n_cmpl": 2}, False),
        ({"seed": 7, "return_tokens": True}, False),
        ({"seed": 7, "include": ["message.output_text.logprobs"]}, False),
        ({}, False),
    ],
)
def test_the_same_answer_comes_again_where_it_is_greedy_or_has_a_seed(fields: dict, is_repeatable: bool) -> None:
    assert asked.read(json.dumps(CHAT | fields).encode()).is_repeatable == is_repeatable


def test_a_session_of_any_length_is_short_for_routers() -> None:
    scope = {"headers": [(b"x-session-id", b"s" * 10_000)], "path": "/"}

    assert len(asked.Asked(scope, b"", asked.Meaning("", False)).session) == 32


def test_a_box_is_told_who_asks_by_the_front_alone(box: OneBox, own_home: Path) -> None:
    """As its turns go by clients."""
    make_token()
    with front(box) as client, connection(client, "127.0.0.5") as one:
        forged = f"{caller.HEADER}: {caller.sealed('10.0.0.1')}"
        one.sendall(f"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n{forged}\r\n\r\n".encode())
        assert one.recv(12) == b"HTTP/1.1 200"
        for value in ("10.0.0.1", f"10.0.0.1 {'0' * 64}", str(caller.sealed("10.0.0.1")).replace("0.1 ", "0.2 ")):
            httpx.get(f"{box.address}/health", headers={caller.HEADER: value})

    assert box.clients == ["127.0.0.5", "127.0.0.1", "127.0.0.1", "127.0.0.1"]


def test_without_a_token_nobody_is_believed(box: OneBox, own_home: Path) -> None:
    httpx.get(f"{box.address}/health", headers={caller.HEADER: "10.0.0.1"})

    assert box.clients[-1] == "127.0.0.1"


class TestContinuations:
    @pytest.fixture(autouse=True)
    def _in_a_cluster(self, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make_token()
        monkeypatch.setattr(loop, "FLUSH_INTERVAL_S", 0.0)  # each token is an event

    @pytest.mark.parametrize("drawn", [{"temperature": 0}, {"seed": 7}, {}])
    @pytest.mark.parametrize("name", REQUESTS)
    def test_a_stream_goes_on_behind_the_tokens_that_it_has(self, box: OneBox, name: str, drawn: dict) -> None:
        """Twice: also one that had gone on already. Drawn without a seed, it has one of the front."""
        path, body = REQUESTS[name][0], drawn_by(name, **drawn)
        with front(box) as client:
            whole = client.post(path, json=body)
            box.cuts = [8, 24]
            told = client.post(path, json=body)
        media_type = whole.headers["content-type"].partition(";")[0]

        assert b": tokens" not in whole.content + told.content
        assert "".join(texts(whole.content, media_type).values()) == QUESTION
        assert texts(told.content, media_type) == texts(whole.content, media_type)
        assert forms(told.content, media_type) == forms(whole.content, media_type)
        first, second, third = box.continuations[1:]
        assert first.tokens == ()
        assert 0 < len(second.tokens) < len(third.tokens)
        assert bytes(third.tokens) == QUESTION.encode()[: len(third.tokens)]
        assert first.seed == second.seed == third.seed

    def test_a_client_neither_asks_for_tokens_nor_gives_any(self, box: OneBox) -> None:
        """Through the front not by any header, and not by one of its own making where a box is asked directly."""
        sealed = str(caller.sealed_continuation(1, (104, 105)))
        forged = f"1:aGkA {'0' * 64}"
        with front(box) as client:
            for value in (sealed, forged, "1:"):
                headers = {caller.CONTINUATION_HEADER: value}
                client.post("/v1/chat/completions", json=CHAT | {"n": 2}, headers=headers)
                client.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert [one and one.tokens for one in box.continuations] == [None, ()] * 3
        own = {"authorization": f"Bearer {KEY}"}
        for value in (forged, sealed[:-1] + "x", sealed.replace(":", ":AAAA"), "", "x"):
            said = httpx.post(f"{box.address}/v1/chat/completions", json=CHAT | {"stream": True},
                              headers=own | {caller.CONTINUATION_HEADER: value})  # fmt: skip
            assert b": tokens" not in said.content
        assert box.continuations[6:] == [None] * 5

    def test_what_the_front_seals_is_believed(self, box: OneBox) -> None:
        sealed = str(caller.sealed_continuation(1, b"he"))
        own = {"authorization": f"Bearer {KEY}", caller.CONTINUATION_HEADER: sealed}
        said = httpx.post(f"{box.address}/v1/chat/completions", json=CHAT | {"stream": True}, headers=own)

        assert said.content.startswith(b": tokens 104 101")

    @pytest.mark.parametrize("more", [{"n": 2}, {"logprobs": True}])
    def test_others_have_none(self, box: OneBox, more: dict) -> None:
        with front(box) as client:
            client.post("/v1/chat/completions", json=CHAT | {"seed": 1} | more)
        assert box.continuations == [None]


def test_without_a_token_a_stream_is_computed_again(box: OneBox, own_home: Path) -> None:
    """As on Kubernetes. Without a seed it ends with an error."""
    path, body = REQUESTS["chat"]
    with front(box) as client:
        box.cuts = [4]
        told = client.post(path, json=body)
        assert "".join(texts(told.content, SSE).values()) == QUESTION
        box.cuts = [4]
        lost = client.post(path, json=CHAT | {"stream": True})
    assert b"stream_lost" in lost.content
    assert box.continuations == [None] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_box_that_leaves_may_say_so_many_times(box: OneBox, stream: bool) -> None:
    """More often than a model may crash under one request."""
    with front(box) as client:
        box.n_away = MOST_CRASHES + 3
        said = client.post("/v1/chat/completions", json=CHAT | {"temperature": 0, "stream": stream})

    assert said.status_code == 200
    assert len(box.paths) == MOST_CRASHES + 4


def test_as_many_tokens_are_kept_as_a_header_carries() -> None:
    stream = SentStream()
    for at in range(0, 2 * caller.MOST_TOKENS, 1000):
        line = continued.line(range(at, at + 1000)) + b"\n"
        assert stream.take(StreamEvent(line)) == b""
    stream.again()
    for tokens in (range(500), range(500, 9000), range(9000, 9001)):
        stream.take(StreamEvent(continued.line(tokens) + b"\n"))

    assert list(stream.tokens) == list(range(caller.MOST_TOKENS))
