"""Connections that send nothing, too little or too slowly, that take nothing, and too many of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message
from support.live_server import Live, Servers
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import UsageError
from edgellm.server.crowd import Crowd, Deadlines, most_connections
from edgellm.server.framing import Framing
from edgellm.server.intake import MAX_BODY_BYTES, Intake
from edgellm.server.pace import Pace, TurnTaker
from edgellm.server.request_log import CLIENT_CLOSED, RequestRecord
from edgellm.server.responses import not_routed

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
NEVER = 3600.0


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_a_client_that_says_nothing_is_hung_up_on(serve: Servers) -> None:
    live = serve(isolate=False, deadlines=Deadlines(headers_s=0.1))
    with live.connection() as connection:
        assert received(connection) == b""


def test_headers_have_a_deadline(serve: Servers) -> None:
    live = serve(isolate=False, deadlines=Deadlines(headers_s=0.1))
    with live.connection() as connection:
        connection.sendall(HEAD)
        answer = received(connection)

    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"request_timeout"' in answer


def test_headers_of_a_further_request_have_a_deadline(serve: Servers) -> None:
    live = serve(isolate=False, deadlines=Deadlines(headers_s=0.1))
    with live.connection() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /hea")
        answer = received(connection)

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


def test_a_body_has_a_deadline(serve: Servers) -> None:
    intake = Intake()
    live = serve(intake=intake, isolate=False, deadlines=Deadlines(body_s=0.1, body_bytes=10_000_000))
    with live.connection() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + b" " * 500_000)
        answer = received(connection)

    assert answer.startswith(b"HTTP/1.1 408")
    wait_until(lambda: intake.held == 0)


def test_a_body_that_nobody_waits_for_has_a_deadline(serve: Servers) -> None:
    live = serve(isolate=False, deadlines=Deadlines(body_s=0.1, body_bytes=10_000_000))
    with live.connection() as connection:
        connection.sendall(HEAD.replace(b"json", b"xml") + b"Content-Length: 1000\r\n\r\n")
        answer = received(connection)

    assert answer.startswith(b"HTTP/1.1 415")


def test_a_body_that_goes_on_after_its_refusal_has_only_a_share_of_the_time(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow: list[TurnTaker] = []
    monkeypatch.setattr(Pace, "take_slow_turn", lambda pace, reader: slow.append(reader))
    with live.connection() as connection:
        connection.sendall(HEAD + b"Content-Length: 99999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
        connection.sendall(b"x")
        wait_until(lambda: slow)

    assert slow[0].held_bytes == 0


@pytest.mark.parametrize("length", [MAX_BODY_BYTES + 1, 4 * MAX_BODY_BYTES])
def test_who_sends_too_much_before_it_reads_is_told_so(live: Live, length: int) -> None:
    with live.connection() as connection:
        connection.sendall(HEAD + f"Content-Length: {length}\r\n\r\n".encode() + b"x" * length)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(("path", "status"), [("/v1/models", b"405"), ("/props", b"405"), ("/nowhere", b"404")])
def test_whoever_ends_its_connection_has_its_answer_all_the_same(live: Live, path: str, status: bytes) -> None:
    """More than the system holds of a body that nobody reads."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with live.connection() as connection:
        connection.sendall(head.encode() + b"Content-Length: 9000000\r\n\r\n" + b" " * 9_000_000)
        assert received(connection).startswith(b"HTTP/1.1 " + status)


async def test_a_client_that_hangs_up_before_its_refusal() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": "/nowhere", "headers": []}
    record = RequestRecord.begin(scope)
    await not_routed(Request(scope, receive), HTTPException(404))
    assert record.error == CLIENT_CLOSED[1]


def test_whoever_takes_nothing_is_cut_off(serve: Servers) -> None:
    live = serve(isolate=False, deadlines=Deadlines(take_s=0.1))
    with live.connection() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /web/swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20)
        wait_until(lambda: live.server.server_state.connections)
        wait_until(lambda: not live.server.server_state.connections)


def test_little_that_is_not_taken_has_its_deadline_too(serve: Servers) -> None:
    """Less than a buffer of the event loop: of as many short answers as the system's own buffers do not hold.

    The server's is small here. Else the client's is full long before: the system then drops what comes for it, also
    what says that its requests arrived, and sends them again ever later.
    """
    live = serve(isolate=False, deadlines=Deadlines(headers_s=NEVER, take_s=NEVER))
    untaken = live.server.server_state._untaken
    ask = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    asks, sent = ask * 1000, 0
    with live.connection() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        wait_until(lambda: live.server.server_state.connections)
        (member,) = live.server.server_state.connections
        with socket.fromfd(
            member.transport.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM
        ) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        def ask_on() -> bool:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                sent += connection.send(asks[sent % len(ask) :])
            return bool(untaken)

        wait_until(ask_on)
        assert member.transport.get_write_buffer_size() < 65536


def test_whoever_takes_nothing_is_cut_off_soon_where_too_much_waits(serve: Servers) -> None:
    live = serve(isolate=False, deadlines=Deadlines(take_s=NEVER, hurry_s=0.1, untaken_bytes=0))
    with live.connection() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /web/swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20)
        wait_until(lambda: live.server.server_state.connections)
        wait_until(lambda: not live.server.server_state.connections)


def test_an_answer_may_take_longer_than_its_request(serve: Servers) -> None:
    live = serve(step_s=0.05, isolate=False, deadlines=Deadlines(headers_s=0.2, body_s=0.2, take_s=0.2))

    assert live.chat("hello world, how are you").status_code == 200


def test_a_new_connection_takes_the_place_of_the_oldest_silent_one(serve: Servers) -> None:
    live = serve(most=4, isolate=False, deadlines=Deadlines(headers_s=NEVER))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(live.connection("127.0.0.2")) for _ in range(6)]

        assert [received(connection) for connection in silent[:2]] == [b"", b""]
        assert live.http.get("/health").status_code == 200
        assert received(silent[2]) == b""


def test_where_all_are_being_answered_a_further_one_is_told_so(serve: Servers) -> None:
    live = serve(most=1, step_s=0.2, isolate=False)
    body = {"prompt": "x" * 1000, "max_tokens": 1000, "stream": True}
    with live.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        with live.connection() as connection:
            refused = received(connection)

    assert refused.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in refused


class Member:
    def __init__(self, address: str, untaken_bytes: int = 0) -> None:
        self.address = self.counts_as = address
        self.untaken_bytes = untaken_bytes
        self.gave_way = False

    def give_way(self) -> None:
        self.gave_way = True


def test_the_address_with_most_connections_gives_way() -> None:
    crowd = Crowd(4, Deadlines())
    one, *many = [Member(address) for address in ("a", "b", "b", "b")]
    for member in (one, *many):
        assert crowd.enter(member)

    assert crowd.enter(Member("c"))
    assert [member.gave_way for member in (one, *many)] == [False, True, False, False]


def test_a_connection_that_is_being_answered_stays() -> None:
    crowd = Crowd(2, Deadlines())
    busy, waiting = Member("a"), Member("a")
    for member in (busy, waiting):
        crowd.enter(member)
    crowd.asks(busy)

    assert crowd.enter(Member("a"))
    assert (busy.gave_way, waiting.gave_way) == (False, True)
    crowd.awaits(busy)
    assert crowd.enter(Member("a"))
    assert crowd.enter(Member("a"))
    assert busy.gave_way


def test_one_that_takes_nothing_gives_way_where_all_are_answered() -> None:
    async def gave_way() -> list[bool]:
        crowd = Crowd(2, Deadlines(hurry_s=0.0))
        members = [Member("a"), Member("b")]
        for member in members:
            crowd.enter(member)
            crowd.asks(member)
        crowd.waits(members[1])
        assert crowd.enter(Member("a"))
        return [member.gave_way for member in members]

    assert asyncio.run(gave_way()) == [False, True]


def test_the_newest_of_an_address_that_has_more_gives_way_where_all_are_answered() -> None:
    crowd = Crowd(4, Deadlines())
    members = [Member(address) for address in ("a", "b", "b", "b")]
    newcomers = [Member("a"), Member("a")]
    for member in members:
        crowd.enter(member)
        crowd.asks(member)

    assert crowd.enter(newcomers[0])
    crowd.asks(newcomers[0])
    assert [member.gave_way for member in members] == [False, False, False, True]
    assert not crowd.enter(newcomers[1])


def test_one_address_that_takes_nothing_leaves_room_for_others(serve: Servers) -> None:
    live = serve(isolate=False, most=3, deadlines=Deadlines(hurry_s=0.0))
    with contextlib.ExitStack() as open_ones:
        for _ in range(3):
            connection = open_ones.enter_context(live.connection("127.0.0.2"))
            connection.sendall(b"GET /web/swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert connection.recv(1)

        assert live.http.get("/health").status_code == 200


def test_those_that_come_together_are_taken_together(serve: Servers) -> None:
    live = serve(isolate=False)
    loop, crowd = live.server.servers[0].get_loop(), live.server.server_state
    held, go_on, all_taken, n_rounds = threading.Event(), threading.Event(), threading.Event(), 0

    def hold() -> None:
        held.set()
        go_on.wait(PATIENCE_S)
        count()

    def count() -> None:
        nonlocal n_rounds
        if crowd._n_members == 64:
            all_taken.set()
        else:
            n_rounds += 1
            loop.call_soon(count)

    loop.call_soon_threadsafe(hold)
    assert held.wait(PATIENCE_S)
    with contextlib.ExitStack() as open_ones:
        for _ in range(64):
            open_ones.enter_context(live.connection())
        go_on.set()
        assert all_taken.wait(PATIENCE_S)
    assert n_rounds < 32


def test_whoever_leaves_most_untaken_gives_way_for_it() -> None:
    async def gave_way() -> list[bool]:
        crowd = Crowd(9, Deadlines(hurry_s=0.0, untaken_bytes=100))
        members = [Member("a", 40), Member("b", 30), Member("b", 30), Member("b", 30)]
        for member in members:
            crowd.enter(member)
            crowd.waits(member)
        return [member.gave_way for member in members]

    assert asyncio.run(gave_way()) == [False, True, False, False]


def test_whoever_has_had_no_time_to_take_it_is_not_cut_off() -> None:
    async def gave_way() -> bool:
        crowd = Crowd(9, Deadlines(hurry_s=NEVER, untaken_bytes=100))
        crowd.waits(large := Member("a", 200))
        return large.gave_way

    assert not asyncio.run(gave_way())


def test_one_that_left_counts_no_more() -> None:
    crowd = Crowd(1, Deadlines())
    first = Member("a")
    crowd.enter(first)
    crowd.asks(first)
    assert not crowd.enter(Member("b"))

    crowd.leave(first)
    crowd.leave(first)
    crowd.awaits(first)
    assert crowd.enter(Member("b"))
    assert not first.gave_way


def test_whoever_has_sent_most_ahead_gives_way_for_it() -> None:
    crowd = Crowd(9, Deadlines(unread_bytes=100))
    members = [Member("a"), Member("b"), Member("b"), Member("b")]
    for member, n_bytes in zip(members, (40, 30, 20, 10), strict=True):
        crowd.enter(member)
        crowd.keeps(member, n_bytes)
    assert not any(member.gave_way for member in members)

    crowd.keeps(members[3], 11)
    assert [member.gave_way for member in members] == [False, True, False, False]
    crowd.leave(members[0])
    crowd.keeps(members[3], 80)
    assert not members[2].gave_way


def test_no_more_is_read_than_is_answered(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a client sends ahead, the system keeps the rest."""
    unread = []
    receive_data = Framing.receive_data

    def receive(framing: Framing, data: bytes) -> None:
        receive_data(framing, data)
        unread.append(framing.unread_bytes)

    monkeypatch.setattr(Framing, "receive_data", receive)
    live = serve(isolate=False, step_s=0.01)
    body = b'{"prompt": "x", "max_tokens": 2, "unknown": "%s"}' % (b"y" * 15_000)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with live.connection() as connection:
        sending = threading.Thread(target=connection.sendall, args=(request * 100,))
        sending.start()
        answers = b""
        while answers.count(b"HTTP/1.1 ") < 100:
            answers += connection.recv(65536)
        sending.join(PATIENCE_S)

    assert max(unread) < 2 * 256 * 1024
    assert answers.count(b"HTTP/1.1 200") == 100


def test_of_all_that_is_sent_ahead_there_is_a_bound(serve: Servers) -> None:
    live = serve(isolate=False, step_s=0.2, deadlines=Deadlines(unread_bytes=1000))
    body = b'{"prompt": "x", "max_tokens": 1000}'
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with live.connection() as connection:
        connection.sendall(request * 20)
        assert received(connection).startswith(b"HTTP/1.1 503")


def test_whoever_has_sent_ahead_and_hangs_up_is_missed(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.server.connection.HUNG_UP_AFTER_S", 0.05)
    live = serve(isolate=False, step_s=0.2)
    body = b'{"prompt": "x", "max_tokens": 4000, "ignore_eos": true}'
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with live.connection() as connection:
        connection.sendall(request * 2)
        wait_until(lambda: live.server.server_state.connections)
        (served,) = live.server.server_state.connections
        wait_until(lambda: served.conn.unread_bytes)
    wait_until(lambda: not live.server.server_state.connections)
    assert not served.conn.unread_bytes


def test_there_are_fewer_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [256, 1024]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(None), wanted))

    assert 512 < most_connections() < 1024
    assert limits == [1024, 1024]
    assert most_connections(n_taken=900) <= 1024 - 900  # a program that holds many
    limits[:] = [64, 64]
    assert 1 <= most_connections(n_taken=53) <= 64 - 53
    with refuses(UsageError):
        most_connections(n_taken=64)
    limits[:] = [256, resource.RLIM_INFINITY]
    assert most_connections() < limits[0]
    assert limits[1] == resource.RLIM_INFINITY


@contextlib.contextmanager
def few_descriptors(*arguments: str) -> Iterator[str]:
    """A server that may have 1024; its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgellm", "serve", "echo", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024)),
    )
    with process:
        try:
            assert process.stdout is not None
            yield next(line.split()[1] for line in process.stdout if line.startswith("Open "))
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


@pytest.fixture
def many_sockets() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"this process may have {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(os.name != "posix", reason="needs limits of processes")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="silent", marks=pytest.mark.slow(12)),
        pytest.param(HEAD, id="headers", marks=pytest.mark.slow(12)),
        pytest.param(HEAD + b"Content-Length: 100\r\n\r\n{", id="body", marks=pytest.mark.slow(36)),
    ],
)
def test_more_connections_than_descriptors_harm_nobody_else(many_sockets: None, sent: bytes) -> None:
    """1,200 of them from one address; requests from another are answered, and all are closed in time."""
    with few_descriptors() as url, contextlib.ExitStack() as stack:
        live = Live(url, None, None, None)  # type: ignore[arg-type]
        transport = httpx.HTTPTransport(local_address="127.0.0.3")
        http = stack.enter_context(httpx.Client(base_url=url, timeout=PATIENCE_S, transport=transport))
        wait_until(lambda: http.get("/health").status_code == 200)
        connections = []
        for number in range(1200):
            connection = stack.enter_context(live.connection("127.0.0.2"))
            with contextlib.suppress(ConnectionError):  # it has given way already
                connection.sendall(sent)
            connections.append(connection)
            if number % 100 == 0:
                assert http.post("/v1/completions", json={"prompt": "hello"}).status_code == 200
        assert http.post("/v1/completions", json={"prompt": "hello"}).status_code == 200
        for connection in connections:
            received(connection)
        assert http.get("/health").status_code == 200
