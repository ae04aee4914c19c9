"""When the seconds of `--drain` are over: each client is told, and what the server cuts off is no client's doing."""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import Any

import httpx
import pytest
from support.live_server import Live, Servers
from support.waiting import PATIENCE_S, wait_until

from edgellm.cli.serve import DRAIN_S
from edgellm.runtime import session, supervisor, thread
from edgellm.server import listener

KILLED_AFTER_S = 10.0  # by `docker stop`


class Client(threading.Thread):
    """One request, in a thread of its own. `status` and `code` of the error are "" where nothing came."""

    def __init__(self, live: Live, *, stream: bool) -> None:
        super().__init__(daemon=True)
        self._live, self._stream = live, stream
        self.began = threading.Event()
        self.status: int | None = None
        self.code = ""
        self.start()

    def run(self) -> None:
        body = {"prompt": "x" * 3000, "max_tokens": 3000, "stream": self._stream}
        try:
            with self._live.http.stream("POST", "/v1/completions", json=body) as answer:
                self.status = answer.status_code
                for line in answer.iter_lines():
                    self.began.set()
                    if '"error"' in line:
                        self.code = json.loads(line.removeprefix("data: "))["error"]["code"]
        except httpx.TransportError:
            self.code = "hung_up"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "edgellm.requests")
    return caplog


def two_clients(live: Live) -> tuple[Client, Client]:
    """A stream that is being answered, and a request that waits behind it for an answer in one piece."""
    streamed = Client(live, stream=True)
    assert streamed.began.wait(PATIENCE_S)
    whole = Client(live, stream=False)
    wait_until(lambda: len(live.server.server_state.tasks) == 2)
    return streamed, whole


def told(clients: tuple[Client, Client]) -> list[tuple[int | None, str]]:
    for client in clients:
        client.join(PATIENCE_S)
    return [(client.status, client.code) for client in clients]


def logged(log: pytest.LogCaptureFixture) -> list[tuple[Any, Any]]:
    """Of the two requests, in whatever order they end."""
    wait_until(lambda: len(log.records) == 2)
    lines: list[dict[str, Any]] = [line.facts for line in log.records]  # type: ignore[attr-defined]
    return sorted((line["status"], line.get("error")) for line in lines)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_clients_are_told_though_the_worker_does_not_answer(
    serve: Servers, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is given up, and long before anything is cut off."""
    monkeypatch.setattr(supervisor, "CLOSE_TIMEOUT_S", 3600.0)
    monkeypatch.setattr(supervisor, "TOLD_AFTER_S", 0.1)
    live = serve(step_s=0.02, drain_s=0.1, isolate=True)
    clients = two_clients(live)
    live.hold()
    try:
        live.server.stop()
        assert told(clients) == [(200, "closed"), (503, "closed")]
    finally:
        live.release()
    assert logged(log) == [(200, "closed"), (503, "closed")]


def test_what_the_server_cuts_off_is_not_called_closed_by_the_client(
    serve: Servers, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where nothing can tell them in time."""
    monkeypatch.setattr(listener, "LAST_WORDS_S", 0.1)
    live = serve(step_s=0.02, drain_s=0.1)
    live.server._on_overdue = lambda: None
    clients = two_clients(live)
    live.server.stop()

    assert told(clients) == [(200, "hung_up"), (None, "hung_up")]
    assert logged(log) == [(200, "cut_off"), (503, "cut_off")]


def test_it_all_fits_into_the_time_until_a_container_is_killed() -> None:
    """The rest is for Python to leave."""
    cut_off_s = 2 * listener.LAST_WORDS_S
    assert cut_off_s > session.TOLD_AFTER_S
    assert DRAIN_S + max(cut_off_s, session.CLOSE_TIMEOUT_S, thread.CLOSE_TIMEOUT_S) <= KILLED_AFTER_S - 1
