"""The actor at the head of a cluster: it listens for clients, and knows what the replicas say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from edgellm_ray.board import NAME, Board, Row
from edgellm_ray.ray_library import NAMESPACE

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_HEAD = "node:__internal_head__"  # a resource that the head alone has: Ray's proxy listens there, on loopback
_BACKLOG = 2048


class Front:
    """One of them lives in a cluster, as the actor `board.NAME`. Ray starts it again where it dies."""

    def __init__(self, host: str, port: int, upstream: str) -> None:
        self._address = (host, port, upstream)
        self._board = Board()
        self._serving: asyncio.Task[None] | None = None

    async def listen(self) -> tuple[str, int, str]:
        """Accept connections, where that has not begun. Returns what the actor was made with.

        Raises:
            UsageError: the address cannot be bound.
        """
        host, port, upstream = self._address
        if self._serving is None:
            import uvicorn

            from edgellm.server import listener
            from edgellm_ray.gateway import Gateway

            bound = listener.bind(host, port)
            app = WithMetrics(Gateway(upstream), self._board)
            config = uvicorn.Config(app, log_level="error", lifespan="off", access_log=False, backlog=_BACKLOG)
            server = uvicorn.Server(config)
            self._serving = asyncio.create_task(server.serve(sockets=[bound]))
        return self._address

    async def put(self, row: Row) -> None:
        """What a replica says of itself; by the first that comes, a front that was started again listens again."""
        self._board.put(row)
        with contextlib.suppress(Exception):  # the address may still be that of the one that died
            await self.listen()

    async def rows(self) -> list[Row]:
        return self._board.rows()


class WithMetrics:
    """An ASGI app whose /metrics are those of all boxes, where the one that answers lets the client see its own."""

    def __init__(self, app: Any, board: Board) -> None:
        self._app = app
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/metrics" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        begin: dict[str, Any] = {}

        async def instead(message: Any) -> None:
            if message["type"] == "http.response.start":
                begin.update(message)
                return
            body = message.get("body", b"")
            if begin["status"] == 200:
                body = together([row.metrics for row in self._board.rows()]).encode()
            kept = [(name, value) for name, value in begin["headers"] if name != b"content-length"]
            await send({**begin, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, instead)


def together(pages: list[str]) -> str:
    """Metrics of several boxes as one page: each metric is described once, before all of its lines."""
    by_head: dict[str, list[str]] = {}
    for page in pages:
        head = ""
        for line in page.splitlines():
            if line.startswith("# HELP"):
                head = line
                by_head.setdefault(head, [])
            elif line not in by_head[head]:
                by_head[head].append(line)
    return "".join("\n".join((head, *lines)) + "\n" for head, lines in by_head.items())


def start(host: str, port: int, upstream: str) -> None:
    """Start it, or put one that listens elsewhere in its place. The process must be in the cluster.

    Raises:
        UsageError: the address cannot be bound.
    """
    import ray
    from ray.exceptions import RayTaskError

    with contextlib.suppress(ValueError):
        running = ray.get_actor(NAME, namespace=NAMESPACE)
        if tuple(ray.get(running.listen.remote())) == (host, port, upstream):
            return
        ray.kill(running)
    kept: dict[str, Any] = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    front = (
        ray.remote(Front)
        .options(num_cpus=0, resources={_HEAD: 0.001}, max_restarts=-1, **kept)
        .remote(host, port, upstream)
    )
    try:
        ray.get(front.listen.remote())
    except RayTaskError as error:
        stop()
        raise error.cause from None


def rows() -> list[Row]:
    """What the replicas last said; empty where nothing is served. The process must be in the cluster."""
    import ray

    try:
        front = ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        return []
    said: list[Row] = ray.get(front.rows.remote())
    return said


def stop() -> None:
    """End it, where there is one."""
    import ray

    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
