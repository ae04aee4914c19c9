"""What a request may hold, and that it is refused before it costs anything."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import psutil
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message
from support.live_server import Live, Servers
from support.off_loop import calls_off_loop
from support.refusals import refuses
from support.serving import serving
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import Overloaded, UsageError
from edgellm.server import counting_places, sse
from edgellm.server.dialects.rerank.bodies import RerankBody
from edgellm.server.intake import LARGE_BYTES, MAX_BODY_BYTES, Incoming, Intake
from edgellm.server.reading_places import LONG_PLACES, SHORT_BYTES, SHORT_PLACES
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas import fields as body_fields
from edgellm.server.schemas.chat import ChatBody
from edgellm.server.schemas.completion import CompletionBody
from edgellm.server.schemas.embeddings import EmbeddingBody
from edgellm.server.schemas.fields import RequestBody
from edgellm.server.served_model import ServedModel
from edgellm.types import json_counts
from edgellm.types.json_counts import MAX_DEPTH, MAX_PARTS, MAX_VALUES, check_counts
from edgellm.types.message import MAX_MESSAGES
from edgellm.types.request import MAX_TOKEN_BYTES
from edgellm.types.sampling import MAX_BIASES

CTX = 4096
TOO_LONG = "x" * (CTX * MAX_TOKEN_BYTES + 1)


def many(head: bytes, item: bytes, count: int, tail: bytes) -> bytes:
    body = head + b",".join([item] * count) + tail
    assert len(body) <= MAX_BODY_BYTES
    return body


def names(head: bytes, value: bytes, count: int, tail: bytes) -> bytes:
    return head + b",".join(b'"%d":%s' % (index, value) for index in range(count)) + tail


CHAT = b'{"messages":[{"role":"user","content":"x"}],'
FAT: dict[str, tuple[type[RequestBody], Callable[[], bytes]]] = {
    "wrong messages": (ChatBody, lambda: many(b'{"messages":[', b'{"x":1}', 1_000_000, b"]}")),
    "unknown fields": (ChatBody, lambda: names(b"{", b"1", 700_000, b"}")),
    "wrong documents": (RerankBody, lambda: many(b'{"query":"a","documents":[', b"1", 1_000_000, b"]}")),
    "wrong biases": (ChatBody, lambda: names(CHAT + b'"logit_bias":{', b'"x"', 600_000, b"}}")),
    "biases": (ChatBody, lambda: names(CHAT + b'"logit_bias":{', b"1", 700_000, b"}}")),
    "a user who is 3 million lists": (ChatBody, lambda: many(CHAT + b'"user":[', b"[]", 3_000_000, b"]}")),
    "lists in lists": (ChatBody, lambda: many(CHAT + b'"user":[', b"[[[[[[[[]]]]]]]]", 600_000, b"]}")),
    "wrong stops": (CompletionBody, lambda: many(b'{"prompt":"x","stop":[', b"1", 4_900_000, b"]}")),
    "lists of no ids": (EmbeddingBody, lambda: many(b'{"input":[', b"[]", 3_000_000, b"]}")),
}


@pytest.mark.parametrize("case", FAT)
def test_a_body_of_too_many_values_is_refused_before_any_is_made(case: str) -> None:
    body_type, make = FAT[case]
    body = make()
    tracemalloc.start()
    try:
        with refuses(UsageError):
            body_type.read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 3 * len(body)


def test_what_stands_in_texts_does_not_count() -> None:
    text = ', [ { " \\ \\" ' * 100_000

    check_counts(json.dumps({"prompt": text, "stop": ["\\", '"', '\\"']}).encode())


@pytest.mark.parametrize(
    ("item", "values", "parts"),
    [("1", 1, 0), ("[]", 2, 1), ("{}", 2, 1), ('"\\\\"', 1, 1), ('"x,"', 1, 1), ('{"[":1}', 2, 2)],
)
def test_exactly_as_much_as_is_allowed_is_read(item: str, values: int, parts: int) -> None:
    """Of a container, the comma before it and its bracket count."""
    most = min((MAX_VALUES - 1) // values, (MAX_PARTS - 1) // max(1, parts))

    check_counts(f"[{','.join([item] * most)}]".encode())
    with refuses(UsageError):
        check_counts(f"[{','.join([item] * (most + 2))}]".encode())


@pytest.mark.parametrize(("opened", "closed"), [('{"]}":', "}"), ("[", "]"), ('{"\\"[":[', "]}")])
def test_exactly_as_deep_as_is_allowed_is_read(opened: str, closed: str) -> None:
    most = MAX_DEPTH // len(closed)

    check_counts(f"{opened * most}1{closed * most}".encode())
    with refuses(UsageError):
        check_counts(f"{opened * (most + 1)}1{closed * (most + 1)}".encode())


class Steps(dict[int, int]):
    """Counts how often it is asked."""

    n_asked = 0

    def __getitem__(self, key: int) -> int:
        self.n_asked += 1
        return super().__getitem__(key)


def test_of_millions_of_ends_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(json_counts._STEPS)
    monkeypatch.setattr(json_counts, "_STEPS", steps)
    check_counts(b"[]" * (MAX_DEPTH + 1) + b"]" * 4 * MAX_PARTS)

    assert steps.n_asked == 2 * MAX_PARTS + 1


def test_what_several_texts_hold_together_counts() -> None:
    half = f"[{','.join(['1'] * (MAX_VALUES // 2))}]".encode()

    check_counts(half)
    with refuses(UsageError, param="messages"):
        check_counts(half, half, what="some text", param="messages")
    check_counts(*[b"[" * MAX_DEPTH] * 4)


@pytest.mark.parametrize(
    ("body_type", "fields", "param"),
    [
        (ChatBody, {"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)}, "messages"),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * (MAX_MESSAGES + 1)}]},
            "messages[0].content",
        ),
        (CompletionBody, {"prompt": "x", "stop": ["x"] * 17}, "stop"),
        (
            CompletionBody,
            {"prompt": "x", "logit_bias": dict.fromkeys(map(str, range(MAX_BIASES + 1)), 1)},
            "logit_bias",
        ),
        (RerankBody, {"query": "x", "documents": ["x"] * 2049}, "documents"),
    ],
)
def test_a_longer_list_than_is_allowed_names_its_field(
    body_type: type[RequestBody], fields: dict[str, Any], param: str
) -> None:
    with refuses(UsageError, param=param):
        body_type.read(json.dumps(fields).encode())


def test_ids_of_as_many_texts_as_are_allowed_are_read() -> None:
    body = EmbeddingBody.read(json.dumps({"input": [[7] * 512] * 2048}).encode())

    assert isinstance(body, EmbeddingBody)
    assert len(body.to_request().inputs) == 2048


@pytest.fixture(scope="module")
def held() -> Iterator[Live]:
    """A server whose worker stands still."""
    with pytest.MonkeyPatch.context() as patch:
        servers = Servers(patch)
        live = servers(ctx=CTX)
        live.hold()
        yield live
        live.release()
        servers.close()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": TOO_LONG}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": TOO_LONG}]}, "messages"),
        ("/v1/embeddings", {"input": ["x", TOO_LONG]}, "input"),
        ("/v1/embeddings", {"input": [7] * (CTX + 1)}, "input"),
        ("/v1/rerank", {"query": "x", "documents": ["x", TOO_LONG]}, "documents"),
    ],
)
def test_a_text_that_no_context_holds_is_refused_without_the_worker(
    held: Live, path: str, body: dict[str, Any], param: str
) -> None:
    error = held.post(path, body).json()["error"]

    assert (error["code"], error["param"]) == ("context_length_exceeded", param)


def test_what_all_requests_hold_is_bounded(serve: Servers) -> None:
    intake = Intake(max_bodies=100_000)
    live = serve(intake=intake)
    live.hold()
    try:
        waiting = threading.Thread(target=live.chat, args=("x" * 80_000,))
        waiting.start()
        wait_until(lambda: intake.held > 60_000)
        refused = live.chat("x" * 80_000)
        small = threading.Thread(target=live.chat, args=("x",))
        small.start()
    finally:
        live.release()
    waiting.join()
    small.join()

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"]
    wait_until(lambda: intake.held == 0)
    assert live.chat("x" * 2000).status_code == 200


def completion(n_bytes: int, n_sent: int) -> bytes:
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    body = json.dumps({"prompt": "x"}).ljust(n_bytes)[:n_sent]
    return f"{head}Content-Length: {n_bytes}\r\n\r\n{body}".encode()


@pytest.mark.parametrize("n_sent", [89_999, 90_000])
def test_who_holds_most_of_what_requests_may_gives_way_to_others(serve: Servers, n_sent: int) -> None:
    intake = Intake(max_bodies=100_000)
    live = serve(intake=intake)
    live.hold()
    with live.connection("127.0.0.3") as greedy, live.connection("127.0.0.4") as modest:
        greedy.sendall(completion(90_000, n_sent))
        wait_until(lambda: intake.held > 70_000)
        modest.sendall(completion(50_000, 50_000))
        refused = greedy.recv(100)
        wait_until(lambda: 0 < intake.held < 40_000)
        live.release()
        answered = modest.recv(100)

    assert refused.startswith(b"HTTP/1.1 503")
    assert answered.startswith(b"HTTP/1.1 200")
    wait_until(lambda: intake.held == 0)


async def test_a_large_body_that_nobody_waits_for_is_not_read(live: Live) -> None:
    """Its client hung up while it waited for another one to be read."""
    messages = iter([{"type": "http.request", "body": b"[" * 100_000}, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(messages)

    scope = {"type": "http", "method": "POST", "headers": []}
    RequestRecord.begin(scope)
    with pytest.raises(ClientDisconnect):
        await ServedModel(live.llm).receive(Request(scope, receive), ChatBody, lambda body: body)


def request_of(client: str, body: bytes) -> Request:
    """One that is there, of a client that waits for its answer."""
    messages: Iterator[Message] = iter([{"type": "http.request", "body": body}])

    async def receive() -> Message:
        if (message := next(messages, None)) is not None:
            return message
        return await asyncio.Event().wait() and {}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "client": (client, 1)}
    RequestRecord.begin(scope)
    return Request(scope, receive)


async def test_two_requests_of_one_client_are_read_at_a_time(live: Live) -> None:
    served, go_on, begun = ServedModel(live.llm), threading.Event(), list[str]()

    def asked(client: str) -> Request:
        return request_of(client, b'{"messages": [{"role": "user", "content": "Hi"}]}')

    def make(client: str, _: ChatBody) -> str:
        begun.append(client)
        go_on.wait(PATIENCE_S)
        return client

    readings = [
        asyncio.create_task(served.receive(asked(client), ChatBody, partial(make, client)))
        for client in ("a", "a", "a", "b")
    ]
    try:
        await asyncio.to_thread(wait_until, lambda: len(begun) == 3)
        assert sorted(begun) == ["a", "a", "b"]
    finally:
        go_on.set()
    assert [client for _, client in await asyncio.gather(*readings)] == ["a", "a", "a", "b"]


async def test_what_is_made_of_a_large_body_keeps_no_other_from_being_read(live: Live) -> None:
    served, go_on, begun = ServedModel(live.llm), threading.Event(), list[str]()

    def asked(client: str) -> Request:
        return request_of(client, b'{"messages": [{"role": "user", "content": "%s"}]}' % (b"a" * LARGE_BYTES))

    def make(client: str, _: ChatBody) -> None:
        begun.append(client)
        go_on.wait(PATIENCE_S)

    readings = [
        asyncio.create_task(served.receive(asked(client), ChatBody, partial(make, client))) for client in ("a", "b")
    ]
    try:
        await asyncio.to_thread(wait_until, lambda: len(begun) == 2)
    finally:
        go_on.set()
        await asyncio.gather(*readings)


async def test_however_many_long_bodies_are_read_a_short_one_is_read_too(live: Live) -> None:
    served, go_on, begun = ServedModel(live.llm), threading.Event(), list[str]()

    def asked(client: str) -> Request:
        return request_of(client, b'{"prompt": "%s"}' % (b"a" * (1 if client == "short" else SHORT_BYTES)))

    def make(client: str, _: CompletionBody) -> None:
        begun.append(client)
        if client != "short":
            go_on.wait(PATIENCE_S)

    def reading(client: str) -> asyncio.Task[object]:
        return asyncio.create_task(served.receive(asked(client), CompletionBody, partial(make, client)))

    long_ones = [reading(f"{client}") for client in range(40)]
    try:
        await asyncio.to_thread(wait_until, lambda: len(begun) == LONG_PLACES)
        await asyncio.wait_for(reading("short"), PATIENCE_S)
        assert len(begun) == LONG_PLACES + 1
    finally:
        go_on.set()
        await asyncio.gather(*long_ones)


def test_a_client_that_left_gives_up_its_place_while_its_body_waits_for_the_model(serve: Servers) -> None:
    """As many long conversations as are read at a time wait for their tokens to be counted; then another comes."""
    live = serve(slots=2)
    long = {"messages": [{"role": "user", "content": "a" * 2 * SHORT_BYTES}]}
    counted = json.dumps({**long, "truncate_prompt": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(counted)}\r\n".encode()
    live.hold()
    try:
        leaving = [live.connection(f"127.0.0.{2 + at}") for at in range(LONG_PLACES)]
        for connection in leaving:
            connection.sendall(head + b"Content-Type: application/json\r\n\r\n" + counted)
        wait_until(lambda: len(live.llm._session._dispatcher) == LONG_PLACES)
        for connection in leaving:
            connection.close()
        assert live.post("/apply-template", long).status_code == 200
        wait_until(lambda: live.llm._session.idle)  # the model is not asked any more
    finally:
        live.release()


# Short bodies that are not read without the model's tokens.
ASKING: list[tuple[str, dict[str, Any]]] = [
    ("/completion", {"prompt": "a", "logit_bias": [["ab", 1]]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 8000}], "truncate_prompt": True}),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "a" * 8000}]}),
    ("/api/chat", {"messages": [{"role": "user", "content": "a" * 8000}]}),
    ("/api/generate", {"prompt": "a" * 8000}),
    ("/tokenize", {"content": "a" * 8000}),
    ("/v1/rerank", {"query": "a", "documents": ["a" * 8000], "truncation": True}),
    ("/v2/rerank", {"query": "a", "documents": ["a" * 8000], "max_tokens_per_doc": 1}),
]


@pytest.mark.parametrize(("path", "body"), ASKING, ids=[path for path, _ in ASKING])
def test_short_bodies_that_wait_for_the_model_keep_no_other_from_being_read(
    serve: Servers, path: str, body: dict[str, Any]
) -> None:
    live = serve(slots=2)
    n_asking = counting_places.SHORT_PLACES if "token" in path else LONG_PLACES
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(sent)}\r\n".encode()
    live.hold()
    try:
        asking = [live.connection(f"127.0.0.{2 + at}") for at in range(SHORT_PLACES + LONG_PLACES)]
        for connection in asking:
            connection.sendall(head + b"Content-Type: application/json\r\n\r\n" + sent)
        wait_until(lambda: len(live.llm._session._dispatcher) == n_asking)
        honest = {"messages": [{"role": "user", "content": "Hi"}]}
        assert live.post("/apply-template", honest).status_code == 200
        assert len(live.llm._session._dispatcher) == n_asking
        for connection in asking:
            connection.close()
        wait_until(lambda: live.llm._session.idle)
    finally:
        live.release()


@pytest.mark.parametrize("n_bytes", [1, SHORT_BYTES], ids=["short", "long"])
async def test_a_body_is_read_only_for_a_client_that_waits(live: Live, n_bytes: int) -> None:
    """Its client hangs up while it is read."""
    begun, gone = threading.Event(), threading.Event()
    body: Iterator[Message] = iter([{"type": "http.request", "body": b'{"prompt": "%s"}' % (b"a" * n_bytes)}])

    async def receive() -> Message:
        if (message := next(body, None)) is not None:
            return message
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        asyncio.get_running_loop().call_soon(gone.set)
        return {"type": "http.disconnect"}

    def make(_: CompletionBody) -> None:
        begun.set()
        gone.wait(PATIENCE_S)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "client": ("a", 1)}
    RequestRecord.begin(scope)
    with pytest.raises(ClientDisconnect):
        await ServedModel(live.llm).receive(Request(scope, receive), CompletionBody, make)


async def test_a_place_is_held_until_the_thread_is_free(live: Live) -> None:
    """Otherwise clients that come and leave would take all threads."""
    served, go_on, begun = ServedModel(live.llm), threading.Event(), list[str]()

    def make(client: str, _: CompletionBody) -> None:
        begun.append(client)
        go_on.wait(PATIENCE_S)

    def reading(client: str) -> asyncio.Task[object]:
        body = b'{"prompt": "%s"}' % (b"a" * SHORT_BYTES)
        return asyncio.create_task(served.receive(request_of(client, body), CompletionBody, partial(make, client)))

    first, second = reading("a"), reading("b")
    await asyncio.to_thread(wait_until, lambda: len(begun) == LONG_PLACES)
    third = reading("c")
    first.cancel()
    await asyncio.sleep(0.1)
    assert sorted(begun) == ["a", "b"]
    go_on.set()
    await asyncio.gather(second, third)
    with pytest.raises(asyncio.CancelledError):
        await first


def test_a_body_of_a_client_that_hung_up_is_let_go(serve: Servers) -> None:
    intake = Intake()
    live = serve(intake=intake)
    with live.connection() as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9000000\r\n\r\n" + b" " * 1_000_000
        )
        wait_until(lambda: intake.held > 900_000)
    wait_until(lambda: intake.held == 0)


STREAMS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}]},
    "/api/chat": {"messages": [{"role": "user", "content": "hi"}]},
}


def waiting_stream(live: Live, n_bytes: int, path: str = "/v1/completions") -> socket.socket:
    """A stream whose response has begun, and its answer has not."""
    body = json.dumps({**STREAMS[path], "model": "echo", "stream": True, "max_tokens": 1}).encode().ljust(n_bytes)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n".encode()
    connection = live.connection()
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def test_a_stream_that_waits_is_held_until_its_answer_begins(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says every few seconds that it waits, and there may be a thousand of them."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    intake = Intake()
    live = serve(intake=intake, ctx=65536)
    live.hold()
    try:
        connection = waiting_stream(live, 50_000)
        assert intake.held > 30_000
    finally:
        live.release()
    with connection:
        wait_until(lambda: intake.held == 0)


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_that_waits_gives_way(
    serve: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """Otherwise those of one client would hold all there is, for as long as they wait. It is told so, as its response
    has begun."""
    caplog.set_level(logging.INFO, "edgellm.requests")
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    live = serve(intake=Intake(max_bodies=60_000), ctx=65536)
    live.hold()
    try:
        waiting = waiting_stream(live, 55_000, path)
        told: list[int] = []
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        body = {"prompt": "x" * 50_000, "max_tokens": 1}

        def ask() -> None:
            with httpx.Client(base_url=live.url, timeout=PATIENCE_S, transport=transport) as http:
                told.append(http.post("/v1/completions", json=body).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        said = b""
        with waiting:
            while not said.endswith(b"\r\n0\r\n\r\n"):
                part = waiting.recv(65536)
                assert part, "it was cut off"
                said += part
    finally:
        live.release()
    asking.join(PATIENCE_S)
    assert told == [200]
    assert b"overloaded" in said
    (line,) = [line for line in caplog.records if getattr(line, "facts", {}).get("path") == path][:1]
    assert (line.facts["status"], line.facts["error"]) == (200, "overloaded")  # type: ignore[attr-defined]
    assert not [line for line in caplog.records if line.exc_info]


async def incoming(intake: Intake, client: str, n_bytes: int) -> Incoming:
    """A body that has come, of a request whose task is over."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * n_bytes}

    body = Incoming({"type": "http", "client": (client, 1)}, receive, intake)
    await body()
    return body


async def test_what_is_kept_in_case_gives_way_first() -> None:
    """The largest, and also to another body of its own client, to which one that is needed does not."""
    intake = Intake(max_bodies=100_000)
    let_go: list[int] = []
    for n_bytes in (30_000, 40_000):
        kept = await asyncio.create_task(incoming(intake, "10.0.0.1", n_bytes))
        kept.answered(partial(let_go.append, n_bytes))
    needed = await asyncio.create_task(incoming(intake, "10.0.0.1", 70_000))
    await asyncio.create_task(incoming(intake, "10.0.0.2", 40_000))
    assert let_go == [40_000]
    await asyncio.create_task(incoming(intake, "10.0.0.1", 38_000))
    assert (let_go, needed.refusal()) == ([40_000, 30_000], None)
    with pytest.raises(Overloaded):
        await asyncio.create_task(incoming(intake, "10.0.0.1", 60_000))


async def test_no_response_begins_whose_request_has_given_way() -> None:
    """Its task hears of it a moment later, when another one of the same request may begin to respond."""
    intake = Intake(max_bodies=100_000)
    gone = [await asyncio.create_task(incoming(intake, "10.0.0.1", 60_000)) for _ in range(2)]
    await asyncio.create_task(incoming(intake, "10.0.0.2", 40_000))
    (one,) = [body for body in gone if not body.held]
    with pytest.raises(asyncio.CancelledError):
        one.responds()
    with pytest.raises(asyncio.CancelledError):
        one.answered(lambda: None)
    assert one.refusal() is not None
    one.responds()  # with the refusal


async def test_what_comes_after_the_end_of_a_request_is_not_held() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 20_000, "more_body": True}

    intake = Intake()
    body = Incoming({"type": "http"}, receive, intake)
    await body()
    assert intake.held > 0
    body.release()
    await body()
    assert intake.held == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's way with memory")
def test_memory_goes_back_to_the_system() -> None:
    """Ten clients send as much as they may, and hang up."""
    body = b'{"prompt":"%s"}' % (b"a" * (MAX_BODY_BYTES - 100))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with serving("echo", "--port", "0") as command:
        command.wait_for("Ready after")
        port = int(command.url.rpartition(":")[2])
        process = psutil.Process(command.process.pid)
        before = process.memory_info().rss

        def send() -> None:
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
                connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                connection.recv(1)

        clients = [threading.Thread(target=send) for _ in range(10)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

        wait_until(
            lambda: process.memory_info().rss < before + 20 * 1024**2,
            timeout_s=20,
            what=lambda: (process.memory_info().rss - before) // 2**20,
        )


def test_no_route_reads_a_body_in_the_event_loop(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve(allow_manage=True, isolate=False)
    described = live.http.get("/openapi.json").json()["paths"]
    routes = [
        (method, path) for path, methods in described.items() for method in methods if "requestBody" in methods[method]
    ]
    read = calls_off_loop(monkeypatch, body_fields, "_decode")
    for method, path in routes:
        live.http.request(method, path, json={"model": "nobody"})

    assert {"/v1/chat/completions", "/api/pull", "/api/copy", "/api/delete", "/edgellm/adapters"} <= {
        path for _, path in routes
    }
    assert read == [True] * len(routes)


@pytest.mark.parametrize("allow_manage", [False, True])
def test_a_body_of_names_is_not_read_where_it_is_long(
    serve: Servers, monkeypatch: pytest.MonkeyPatch, allow_manage: bool
) -> None:
    live = serve(allow_manage=allow_manage, isolate=False)
    read = calls_off_loop(monkeypatch, body_fields, "_decode")
    routes = [("POST", "/api/pull"), ("POST", "/api/copy"), ("DELETE", "/api/delete"), ("POST", "/edgellm/adapters")]
    body = {"model": "echo", "x": "a" * SHORT_BYTES}
    statuses = [live.http.request(method, path, json=body).status_code for method, path in routes]

    assert statuses == ([413] * 4 if allow_manage else [413, 403, 403, 403])
    assert not read


def test_bodies_are_read_beside_the_event_loop(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one, and one that is large enough to be read alone."""
    read = calls_off_loop(monkeypatch, EmbeddingBody, "read")
    for n_texts in (1, 2048):
        answer = live.post("/v1/embeddings", {"input": ["x" * 400] * n_texts})
        assert len(answer.json()["data"]) == n_texts

    assert read == [True, True]
