"""The front of a cluster without Ray: its HTTP server, and a box behind it whose requests are seen."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from edgellm_ray import caller
from edgellm_ray.board import Board
from edgellm_ray.box import NODE_HEADER, PLAN_HEADER, at_root
from edgellm_ray.events import NDJSON, SSE, EventReader
from edgellm_ray.front import FrontConfig, server

from edgellm.errors import Closed
from edgellm.sdk.client import EdgeLLM
from edgellm.server import continued
from edgellm.server.app import create_app
from edgellm.server.error_form import form_for
from edgellm.server.listener import Listener, bind, url
from edgellm.server.middleware import respond
from edgellm.server.served_model import ServedModel
from edgellm.types.continuation import Continuation
from support.waiting import PATIENCE_S, wait_until

KEY = "0123456789abcdef"
SERVICE = "home"


@contextlib.contextmanager
def listening(made: Listener) -> Iterator[str]:
    """Its address, while it runs in a thread."""
    with bind("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=made.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        wait_until(lambda: made.started)
        yield url(bound)
        made.stop()
        thread.join(PATIENCE_S)


@dataclass
class OneBox:
    """A box whose requests are seen.

    Attributes:
        cuts: of the next streams that break off, how many events of each are sent.
        n_away: of the next requests, how many it refuses as one that leaves.
    """

    address: str
    served: ServedModel
    paths: list[str] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)  # by their addresses
    continuations: list[Continuation | None] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    n_away: int = 0


@contextlib.contextmanager
def one_box(key: str) -> Iterator[OneBox]:
    with EdgeLLM.load("echo", isolate=False) as llm:
        app = create_app(llm, api_key=key, node="one")
        seen = OneBox("", app.state.served)

        async def named(scope: dict, receive: Any, send: Any) -> None:
            left = seen.cuts.pop(0) if seen.cuts else None

            async def with_node(message: dict) -> None:
                nonlocal left
                if message["type"] == "http.response.start":
                    told = (NODE_HEADER, b"one"), (PLAN_HEADER, seen.served.fingerprint.encode())
                    message["headers"] = [*message["headers"], *told]
                elif left is not None:
                    events = EventReader(NDJSON if "/api/" in scope["path"] else SSE).feed(message.get("body", b""))
                    kept = [event.raw for event in events][:left]
                    left -= len(kept)
                    message = {**message, "body": b"".join(kept), "more_body": True}
                await send(message)

            root = f"/{SERVICE}" if scope["path"].startswith(f"/{SERVICE}/") else ""  # as Ray's proxy says it
            own = caller.from_caller(at_root({**scope, "root_path": root}))
            assert not caller.HEADERS & {name.decode() for name, _ in own["headers"]}
            seen.paths.append(own["path"])
            seen.clients.append(own["client"][0])
            seen.continuations.append(continued.of(own))
            if seen.n_away:
                seen.n_away -= 1
                await respond(with_node, Closed("the model was closed", hint=""), form_for(own), "")
                return
            await app(own, receive, with_node)
            if left is not None:
                raise ConnectionResetError("as if the plug were pulled")

        nothing: dict[str, Any] = {"started": lambda: None, "draining": lambda _: None, "overdue": lambda: None}
        with listening(Listener(named, drain_s=1.0, **nothing)) as seen.address:
            yield seen


@contextlib.contextmanager
def front(box: OneBox, key: str | None = KEY, board: Board | None = None, **limits: Any) -> Iterator[httpx.Client]:
    """A client with the key of a front."""
    config = FrontConfig(host="127.0.0.1", port=0, upstream=box.address, api_key=key)
    headers = {"authorization": f"Bearer {KEY}"}
    with (
        listening(server(config, board or Board(), **limits)) as address,
        httpx.Client(base_url=address, headers=headers, timeout=PATIENCE_S) as client,
    ):
        box.paths.clear()
        box.clients.clear()
        box.continuations.clear()
        yield client
