"""One replica: a model chosen for the machine that it landed on, behind EdgeLLM's own HTTP app."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from typing import TYPE_CHECKING, Any

from edgellm.errors import speak_in_flags
from edgellm_ray import board, gate, node, placement, scaling
from edgellm_ray.caller import from_caller
from edgellm_ray.config import ModelConfig, ServiceConfig

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from edgellm.sdk.client import EdgeLLM
    from edgellm.server.served_model import ServedModel

NODE_HEADER = b"x-edgellm-node"
PLAN_HEADER = b"x-edgellm-plan"  # equal where the same request with the same seed has the same answer
REPORT_PERIOD_S = 1.0
DRAIN_S = 60.0  # how long running answers may go on when a model or a replica leaves
_BROKEN = ("failed", "closed", "hung")
_log = logging.getLogger("edgellm.ray")


class Box:
    """The class of the deployment. Ray makes one on each box, calls `reconfigure`, and then sends it requests."""

    def __init__(self, service: dict[str, Any]) -> None:
        speak_in_flags()  # what a replica says is read by whoever gave the flags of `cluster serve`
        self._service = ServiceConfig(**service | {"aliases": tuple(service.get("aliases", ()))})
        self._app: Starlette | None = None
        self._config = ModelConfig()
        self._preview: str | None = None
        self._memory_bytes = 0
        self._reporting: asyncio.Task[None] | None = None

    async def reconfigure(self, fields: dict[str, Any]) -> None:
        """Serve another model, or the first, once the answers at hand have ended. Ray sends no requests meanwhile.

        Raises:
            EdgeLLMError: it cannot be had, or does not pass the gate; Ray then takes this replica away.
        """
        config = ModelConfig.decoded(fields)
        await self._drained()
        try:
            self._app = await asyncio.to_thread(self._opened, config)
        except Exception as error:
            with contextlib.suppress(Exception):  # where there is no front, as on Kubernetes, Ray alone is told
                await board.fail(board.failure(error, config))
            raise
        self._config = config
        # What a start leaves behind is not looked through again at each collection.
        gc.collect()
        gc.freeze()
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._report())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:  # uvicorn takes no method for an app
            await self._answer(scope, receive, send)

        return app

    async def check_health(self) -> None:
        """Ray asks every few seconds, and replaces a replica that raises."""
        if self._app is not None and (state := self._served.llm.state) in _BROKEN:
            raise RuntimeError(f"the model is {state}: {self._served.reason()}")

    def record_routing_stats(self) -> dict[str, Any]:
        """What the router weighs this replica by."""
        if self._app is None:
            return {}
        return {"decode_tok_s": board.weight(self._served), "plan": self._served.fingerprint, "node": node.name()}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `scaling.by_wait` counts with."""
        if self._app is None:
            return {}
        now = self._served.activity_report()
        return {scaling.ROOM: scaling.room(now.n_slots, now.answers)}

    async def __del__(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
        await asyncio.to_thread(self._close, drain=True)

    @property
    def _served(self) -> ServedModel:
        assert self._app is not None
        served: ServedModel = self._app.state.served
        return served

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # comes before the first model, and means none
            await _lifespan(receive, send)
            return
        app = self._app
        assert app is not None, "Ray sends requests once `reconfigure` is done"
        served: ServedModel = app.state.served
        own = [(NODE_HEADER, node.name().encode()), (PLAN_HEADER, served.fingerprint.encode())]

        async def with_own(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        await app(from_caller(at_root(scope)), receive, with_own)

    def _opened(self, config: ModelConfig) -> Starlette:
        """The app around a loaded model that passed the gate."""
        from edgellm.sdk.client import EdgeLLM
        from edgellm.server.app import create_app
        from edgellm.server.names import ModelNames

        planned = placement.planned(config)
        self._preview, self._memory_bytes = planned.preview, planned.memory_bytes
        plan, service = planned.plan, self._service
        # Boxes that choose for themselves may serve different models: a client cannot know the name.
        any_name = service.any_model or config.model is None
        names = ModelNames.of(service.aliases, any_name=any_name, model=plan.artifact.name)
        if config.model is not None and not names.include(config.name, plan.artifact.name):
            names = names.with_alias(config.name)
        llm = EdgeLLM(plan, decision=planned.decision)
        try:
            gate.check(llm, config)
        except BaseException:
            llm.close()
            raise
        return create_app(
            llm,
            api_key=service.api_key,
            host=service.public_name,
            strict_fields=service.strict_fields,
            names=names,
            node=node.name(),
        )

    async def _drained(self) -> None:
        """Close the model behind the answers at hand, or after DRAIN_S."""
        closing = asyncio.create_task(asyncio.to_thread(self._close, drain=True))
        await asyncio.wait({closing}, timeout=DRAIN_S)
        if not closing.done():
            await asyncio.to_thread(self._close)
        await closing

    def _close(self, *, drain: bool = False) -> None:
        if self._app is not None:
            llm: EdgeLLM = self._served.llm
            llm.close(drain=drain)

    async def _report(self) -> None:
        """Tell the board what runs here, again and again: it may be another one."""
        while True:
            if self._app is not None:
                with contextlib.suppress(Exception):  # it is not there yet, or again
                    await board.put(self._row())
            await asyncio.sleep(REPORT_PERIOD_S)

    def _row(self) -> board.Row:
        return board.row(self._served, self._config, preview=self._preview, memory_bytes=self._memory_bytes)


def at_root(scope: Scope) -> Scope:
    """Without the name of the application, with which paths of Ray's proxy begin: ours are seen from the root."""
    root = scope.get("root_path", "")
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return {
        **scope,
        "root_path": "",
        "path": scope["path"].removeprefix(root) or "/",
        "raw_path": raw.removeprefix(root.encode()) or b"/",
    }


async def _lifespan(receive: Receive, send: Send) -> None:
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
