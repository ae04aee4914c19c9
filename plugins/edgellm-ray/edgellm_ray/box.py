"""One replica: a model chosen for the machine that it landed on, behind EdgeLLM's own HTTP app."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from typing import TYPE_CHECKING, Any

from edgellm.errors import speak_in_flags
from edgellm_ray import board, gate, node, scaling
from edgellm_ray.caller import from_caller
from edgellm_ray.config import ModelConfig, ServiceConfig

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from edgellm.sdk.client import EdgeLLM
    from edgellm.server.served_model import ServedModel
    from edgellm.types.options import LaunchOptions
    from edgellm.types.plan import Decision, LaunchPlan

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
        self._preview: str | None = None
        self._asked = ""
        self._reporting: asyncio.Task[None] | None = None

    async def reconfigure(self, fields: dict[str, Any]) -> None:
        """Serve another model, or the first, once the answers at hand have ended. Ray sends no requests meanwhile.

        Raises:
            EdgeLLMError: it cannot be had, or does not pass the gate; Ray then takes this replica away.
        """
        config = ModelConfig.decoded(fields)
        await self._drained()
        try:
            self._app, self._preview = await asyncio.to_thread(self._opened, config)
        except Exception as error:
            with contextlib.suppress(Exception):  # where there is no front, as on Kubernetes, Ray alone is told
                await board.fail(board.failure(error, asked=config.mark))
            raise
        self._asked = config.mark
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
        return {"decode_tok_s": board.speed(self._served), "plan": self._served.fingerprint, "node": node.name()}

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

        await app(from_caller(scope), receive, with_own)

    def _opened(self, config: ModelConfig) -> tuple[Starlette, str | None]:
        """The app around a loaded model that passed the gate, and what selection says of this machine."""
        from edgellm.sdk.client import EdgeLLM
        from edgellm.server.app import create_app
        from edgellm.server.names import ModelNames

        plan, decision, preview = _planned(config.model, config.options)
        service = self._service
        # Boxes that choose for themselves may serve different models: a client cannot know the name.
        any_name = service.any_model or config.model is None
        names = ModelNames.of(service.aliases, any_name=any_name, model=plan.artifact.name)
        llm = EdgeLLM(plan, decision=decision)
        try:
            gate.check(llm, config)
        except BaseException:
            llm.close()
            raise
        app = create_app(
            llm,
            api_key=service.api_key,
            host=service.public_name,
            strict_fields=service.strict_fields,
            names=names,
            node=node.name(),
        )
        return app, preview

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
                    await board.put(board.row(self._served, preview=self._preview, asked=self._asked))
            await asyncio.sleep(REPORT_PERIOD_S)


async def _lifespan(receive: Receive, send: Send) -> None:
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


def _planned(model: str | None, options: LaunchOptions) -> tuple[LaunchPlan, Decision | None, str | None]:
    """The plan for this machine; where the model was chosen, what `edgellm auto-select --json` prints here."""
    import msgspec

    from edgellm.app import launch
    from edgellm.app.context import request_for
    from edgellm.selection import decision_json
    from edgellm.selection.decide import decide

    context = node.context()
    preview = None
    if model is None:
        decision = decide(context, request_for(context, options))
        preview = msgspec.json.encode(decision_json.to_dict(decision)).decode()
    plan, chosen = launch.plan(model, options, context=context)
    return plan, chosen, preview
