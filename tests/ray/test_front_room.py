"""The front where its room for bodies is full, and where boxes have too much to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("aiohttp")
from edgellm_ray.gateway import Gateway

from edgellm.server.intake import Intake

GREEDY = {"messages": [{"role": "user", "content": "hello"}], "stream": True, "temperature": 0}
DRAWN = {key: value for key, value in GREEDY.items() if key != "temperature"}


class Upstream:
    """Ray's proxy. Each stream has one event, and breaks off when that is asked for.

    Attributes:
        n_asked: requests until now.
    """

    def __init__(self, event: bytes) -> None:
        self.n_asked = 0
        self.breaks = asyncio.Event()
        self._event = event
        self._type = b"application/x-ndjson" if event.startswith(b"{") else b"text/event-stream"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0, limit=2**20) as server:
            yield "http://{}:{}".format(*server.sockets[0].getsockname())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
        self.n_asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nx-edgellm-node: a\r\n" % self._type)
        writer.write(b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(self._event), self._event))
        await self.breaks.wait()
        writer.close()


class Asking:
    """One request, as a task.

    Attributes:
        sent: what its client has so far.
        takes: while it is not set, the client does not take on that the stream is resumed.
    """

    def __init__(self, gateway: Gateway, client: str, path: str, body: dict[str, Any], n_bytes: int) -> None:
        self.sent = b""
        self.status = 0
        self.takes, self.resumes, self._begun = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.takes.set()
        self._messages = [{"type": "http.request", "body": json.dumps(body).encode().ljust(n_bytes)}]
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [],
            "client": (client, 1),
        }
        self.task = asyncio.create_task(gateway(scope, self._receive, self._send))

    async def begun(self) -> Asking:
        await self._begun.wait()
        return self

    async def _receive(self) -> Any:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop()

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.sent += message.get("body", b"")
        if self.sent:
            self._begun.set()
        if b": resumes" in self.sent:
            self.resumes.set()
            await self.takes.wait()


@contextlib.asynccontextmanager
async def gateway(upstream: Upstream, max_bodies: int) -> AsyncIterator[Gateway]:
    access: Any = SimpleNamespace(check=lambda scope: None)
    async with upstream.listening() as address:
        made = Gateway(address, Intake(max_bodies=max_bodies), access, lambda name: "")
        yield made
        if made._client is not None:
            await made._client.close()


@pytest.fixture(autouse=True)
def _in_no_cluster(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes believe no seed of the front."""
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)


async def test_a_stream_that_could_be_asked_again_gives_way_and_goes_on() -> None:
    upstream = Upstream(b'data: {"choices": []}\n\n')
    async with gateway(upstream, 100_000) as front:
        first = await Asking(front, "10.0.0.1", "/v1/chat/completions", GREEDY, 90_000).begun()
        second = await Asking(front, "10.0.0.2", "/v1/chat/completions", DRAWN, 60_000).begun()
        assert (first.status, second.status, first.task.done()) == (200, 200, False)
        upstream.breaks.set()
        await asyncio.gather(first.task, second.task)

    assert upstream.n_asked == 2  # of its body nothing is left that another box could be asked with
    assert b"stream_lost" in first.sent
    assert b"until others needed the room" in first.sent


async def test_a_stream_that_gives_way_while_it_is_resumed_is_not_asked_for_without_its_body() -> None:
    upstream = Upstream(b'data: {"choices": []}\n\n')
    async with gateway(upstream, 100_000) as front:
        first = await Asking(front, "10.0.0.1", "/v1/chat/completions", GREEDY, 90_000).begun()
        first.takes.clear()
        upstream.breaks.set()
        await first.resumes.wait()
        await Asking(front, "10.0.0.2", "/v1/chat/completions", DRAWN, 60_000).task
        first.takes.set()
        await first.task

    assert upstream.n_asked == 2
    assert b"stream_lost" in first.sent


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/chat/completions", b'data: {"error": {"code": "overloaded", "type": "server_error"}}\n\n'),
        ("/v1/messages", b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n'),
        ("/v1/responses", b'event: error\ndata: {"type": "error", "code": "overloaded"}\n\n'),
        ("/api/chat", b'{"error": "too much", "code": "overloaded"}\n'),
    ],
    ids=["openai", "anthropic", "responses", "ollama"],
)
async def test_what_gave_way_on_a_box_is_not_asked_of_another(path: str, error: bytes) -> None:
    """It would do the same there: all boxes have as much to do."""
    upstream = Upstream(error)
    async with gateway(upstream, 100_000) as front:
        asking = Asking(front, "10.0.0.1", path, GREEDY | {"options": {"temperature": 0}}, 1000)
        assert (await asking.begun()).sent.startswith(error)
        assert upstream.n_asked == 1
        asking.task.cancel()
        await asyncio.wait((asking.task,))
        upstream.breaks.set()
