"""The actor at the head of a cluster: it listens for clients, and knows what the replicas say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from edgellm_ray.board import ACTOR, Board, Failure, Row, Service
from edgellm_ray.ray_library import NAMESPACE

if TYPE_CHECKING:
    from edgellm.server.listener import Listener

_HEAD = "node:__internal_head__"  # a resource that the head alone has: Ray's proxy listens there, on loopback


class FrontConfig(Struct, frozen=True, kw_only=True):
    """Where the front listens, and for whom."""

    host: str
    port: int
    upstream: str  # `http://HOST:PORT` of Ray's proxy
    api_key: str | None = None
    public_name: str = "127.0.0.1"  # by which clients reach the cluster


class Front:
    """One of them lives in a cluster, as the actor `board.ACTOR`. Ray starts it again where it dies."""

    def __init__(self, config: FrontConfig) -> None:
        self._config = config
        self._board = Board()
        self._serving: asyncio.Task[None] | None = None

    async def listen(self) -> FrontConfig:
        """Accept connections, where that has not begun. Returns what the actor was made with.

        Raises:
            UsageError: the address cannot be bound.
        """
        if self._serving is None:
            from edgellm.server import listener

            bound = listener.bind(self._config.host, self._config.port)
            self._serving = asyncio.create_task(server(self._config, self._board).serve(sockets=[bound]))
        return self._config

    async def put(self, row: Row) -> None:
        """What a replica says of itself; by the first that comes, a front that was started again listens again."""
        self._board.put(row)
        with contextlib.suppress(Exception):  # the address may still be that of the one that died
            await self.listen()

    async def fail(self, failure: Failure) -> None:
        """What a box says where it cannot load what is asked for."""
        self._board.fail(failure)
        with contextlib.suppress(Exception):
            await self.listen()

    async def forget(self, name: str) -> None:
        """That service is taken away."""
        self._board.forget(name)

    async def asks_anew(self, name: str) -> None:
        """That service is to run something."""
        self._board.asks_anew(name)

    async def services(self) -> list[Service]:
        return self._board.services()

    async def rows(self) -> list[Row]:
        return self._board.rows()

    async def failures(self) -> list[Failure]:
        return self._board.failures()


def server(config: FrontConfig, board: Board, **limits: Any) -> Listener:
    """The HTTP server, in the bounds of one box's. `limits`: deadlines and the number of connections, where others."""
    from edgellm.server.access import Access
    from edgellm.server.crowd import most_connections
    from edgellm.server.intake import Intake
    from edgellm.server.listener import Listener
    from edgellm_ray.gateway import Gateway
    from edgellm_ray.whole import OfAllBoxes

    intake = Intake()
    access = Access(intake, api_key=config.api_key, names=(config.host, config.public_name))
    app = OfAllBoxes(Gateway(config.upstream, intake, access, board.app), board)
    limits.setdefault("most", most_connections() // 2)  # each request has a second one, to the proxy
    return Listener(app, started=_nothing, draining=_nothing, overdue=_nothing, drain_s=0.0, **limits)


def _nothing(*_: object) -> None:
    pass


def start(config: FrontConfig) -> FrontConfig:
    """Start it, or put another in its place. The process must be in the cluster. Returns what was there before, or else
    `config`.

    Raises:
        UsageError: the address cannot be bound.
    """
    import ray
    from ray.exceptions import RayTaskError

    before = config
    with contextlib.suppress(ValueError):
        running = ray.get_actor(ACTOR, namespace=NAMESPACE)
        before = ray.get(running.listen.remote())
        if before == config:
            return before
        ray.kill(running)
    kept: dict[str, Any] = {"name": ACTOR, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    front = ray.remote(Front).options(num_cpus=0, resources={_HEAD: 0.001}, max_restarts=-1, **kept).remote(config)
    try:
        ray.get(front.listen.remote())
    except RayTaskError as error:
        stop()
        raise error.cause from None
    return before


def rows() -> list[Row]:
    """What the replicas last said; empty where nothing is served. The process must be in the cluster."""
    said: list[Row] = _told("rows") or []
    return said


def failures() -> list[Failure]:
    """The boxes on which what is asked for does not run. The process must be in the cluster."""
    said: list[Failure] = _told("failures") or []
    return said


def services() -> list[Service]:
    """As each box last told what it serves. The process must be in the cluster."""
    said: list[Service] = _told("services") or []
    return said


def config() -> FrontConfig | None:
    """How it listens; None = nothing is served. The process must be in the cluster."""
    said: FrontConfig | None = _told("listen")
    return said


def forget(name: str) -> None:
    """The service of that name is taken away. The process must be in the cluster."""
    _told("forget", name)


def asks_anew(name: str) -> None:
    """The service of that name is to run something. The process must be in the cluster."""
    _told("asks_anew", name)


def _told(method: str, *arguments: object) -> Any:
    import ray

    try:
        front = ray.get_actor(ACTOR, namespace=NAMESPACE)
    except ValueError:
        return None
    return ray.get(getattr(front, method).remote(*arguments))


def stop() -> None:
    """End it, where there is one."""
    import ray

    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(ACTOR, namespace=NAMESPACE))
