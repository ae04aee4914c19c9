"""Real servers on free ports, with the echo model behind them, for tests of the HTTP faces."""

from __future__ import annotations

import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from edgellm.app import launch
from edgellm.sdk.client import EdgeLLM
from edgellm.server import listener
from edgellm.server.app import create_app
from edgellm.server.crowd import Deadlines
from edgellm.types.plan import Decision, LaunchPlan
from edgellm.types.request import SelectionRequest
from support.waiting import PATIENCE_S


@dataclass
class Live:
    """A server that runs in a thread of this process; its model's worker is a process of its own."""

    url: str
    llm: EdgeLLM
    server: listener.Listener
    http: httpx.Client

    def hold(self) -> None:
        """The worker stands still, so a model that loads goes on loading until `release`."""
        os.kill(self.llm._session.pid, signal.SIGSTOP)  # type: ignore[attr-defined]

    def release(self) -> None:
        os.kill(self.llm._session.pid, signal.SIGCONT)  # type: ignore[attr-defined]

    def connection(self, source: str = "127.0.0.1") -> socket.socket:
        """A connection of one's own, for what no HTTP client would send. `source`: the address it comes from."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return socket.create_connection((host, int(port)), PATIENCE_S, (source, 0))

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.http.post(path, json=body, **more)

    def chat(self, text: str, **fields: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields})


def echo_plan(ctx: int = 4096, slots: int = 1) -> LaunchPlan:
    return launch.model_plan("echo", SelectionRequest(ctx=ctx, slots=slots))


class Servers:
    """Starts servers and stops all of them at the end."""

    def __init__(self, patch: pytest.MonkeyPatch, *, isolate: bool = True) -> None:
        self._patch = patch
        self._isolate = isolate
        self._running: list[tuple[Live, threading.Thread]] = []

    def __call__(
        self,
        plan: LaunchPlan | None = None,
        *,
        step_s: float = 0.0,
        load_s: float = 0.0,
        slots: int = 1,
        ctx: int = 4096,
        wait: bool = True,
        decision: Decision | None = None,
        deadlines: Deadlines | None = None,
        drain_s: float = 8.0,
        most: int | None = None,
        isolate: bool | None = None,
        **app: Any,
    ) -> Live:
        """`isolate=False`: the model runs in a thread, for tests of what never reaches a worker's process."""
        self._patch.setenv("EDGELLM_ECHO_STEP_S", str(step_s))
        self._patch.setenv("EDGELLM_ECHO_LOAD_S", str(load_s))
        llm = EdgeLLM(
            plan or echo_plan(ctx, slots), decision=decision, isolate=self._isolate if isolate is None else isolate
        )
        bound = listener.bind("127.0.0.1", 0)
        listening = threading.Event()
        server = listener.Listener(
            create_app(llm, **app),
            started=listening.set,
            draining=lambda n: None,
            overdue=llm.close,
            drain_s=drain_s,
            deadlines=deadlines or Deadlines(),
            most=most,
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        assert listening.wait(PATIENCE_S)
        url = listener.url(bound)
        live = Live(url, llm, server, httpx.Client(base_url=url, timeout=PATIENCE_S))
        self._running.append((live, thread))
        if wait:
            _ = llm.info
        return live

    def close(self) -> None:
        for live, thread in self._running:
            live.http.close()
            live.server.stop()
            live.llm.close()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
