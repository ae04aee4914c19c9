"""`/edgellm/adapters`: which LoRA adapters are loaded, and loading and dropping them while the model answers."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.app import adapters as app_adapters
from edgellm.errors import UsageError
from edgellm.server.beside import beside
from edgellm.server.managing import check_may_manage
from edgellm.server.openapi import REFUSALS, Operation
from edgellm.server.responses import NO_STORE, JSONResponse
from edgellm.server.schemas.fields import RequestBody
from edgellm.server.served_model import ServedModel

TAG = "Adapters"
WHAT, INSTEAD = "adapters", "`edgellm serve --adapter`"


class ServedAdapter(msgspec.Struct, frozen=True):
    """`id`: the `model` of requests that it alone answers. `bytes`: in memory."""

    name: str
    id: str
    bytes: int
    sha256: str


class ServedAdapters(msgspec.Struct, frozen=True):
    adapters: list[ServedAdapter]


class LoadAdapterBody(RequestBody, kw_only=True):
    """POST /edgellm/adapters."""

    text_field = "name"
    example = '{"name": "..."}'

    name: str


def operations(served: ServedModel, *, allow_manage: bool) -> list[Operation]:
    """The operations on adapters."""

    async def listed(_: Request) -> ASGIApp:
        """The adapters that are loaded."""
        return JSONResponse(_described(served), headers=NO_STORE)

    async def load(request: Request) -> ASGIApp:
        """Load an adapter of this model that `edgellm adapters list` shows. No path: a client names no files here."""
        check_may_manage(request, allowed=allow_manage, what=WHAT, instead=INSTEAD)
        body = await served.receive_names(request, LoadAdapterBody)
        served.require(body.model)
        stored = await beside(app_adapters.stored, body.name, served.llm.plan.artifact)
        await served.llm.aadd_adapter(stored.path, body.name)
        return JSONResponse(_described(served), headers=NO_STORE)

    async def drop(request: Request) -> ASGIApp:
        """Drop an adapter, once the answers that use it have ended. Its file stays."""
        check_may_manage(request, allowed=allow_manage, what=WHAT, instead=INSTEAD)
        served.require(None)
        name = request.path_params["name"]
        if any(name == used for used, _ in served.llm.plan.answers_with):
            hint = "stop the server, and serve the model without it"
            raise UsageError(f"the model is served with {name[:80]}", hint=hint, param="name")
        await served.llm.aremove_adapter(name)
        return JSONResponse(_described(served), headers=NO_STORE)

    return [
        Operation("GET", "/edgellm/adapters", listed, TAG, ServedAdapters),
        Operation("POST", "/edgellm/adapters", load, TAG, ServedAdapters, LoadAdapterBody, REFUSALS),
        Operation("DELETE", "/edgellm/adapters/{name}", drop, TAG, ServedAdapters, other_replies=REFUSALS),
    ]


def _described(served: ServedModel) -> ServedAdapters:
    return ServedAdapters(
        [
            ServedAdapter(file.name, served.adapted_id(file.name), file.bytes, file.sha256)
            for file in served.llm.adapters
        ]
    )
