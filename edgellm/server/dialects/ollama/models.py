"""`/api/tags`, `/api/show`, `/api/ps` and `/api/version`: the one model that is served, by its names."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm import __version__
from edgellm.server.dialects.ollama.model_answers import (
    OllamaModel,
    OllamaModelDescription,
    OllamaModelList,
    OllamaRunningModel,
    OllamaRunningModels,
)
from edgellm.server.dialects.ollama.refusals import REFUSALS, TAG
from edgellm.server.openapi import Operation
from edgellm.server.responses import JSONResponse
from edgellm.server.schemas.fields import RequestBody
from edgellm.server.served_model import ServedModel

SPOKEN = "0.13.0"  # clients turn away from an Ollama that is older than what they need


class OllamaNameBody(RequestBody, kw_only=True):
    """Of requests about a model."""

    text_field = "model"
    example = '{"model": "..."}'

    name: Annotated[str | None, Meta(description="Ollama's older `model`.")] = None

    def __post_init__(self) -> None:
        self.model = self.model or self.name


class OllamaShowBody(OllamaNameBody, kw_only=True):
    """POST /api/show."""

    IGNORED = ("verbose", "system", "template", "options")


class OllamaVersion(msgspec.Struct, frozen=True):
    """`version`: of Ollama's API, as it is spoken here. `edgellm`: of this server."""

    version: str
    edgellm: str


def operations(served: ServedModel) -> list[Operation]:
    """The operations that describe the model."""

    async def tags(_: Request) -> ASGIApp:
        """The model that is served, by each of its names."""
        return JSONResponse(model_list(served))

    async def show(request: Request) -> ASGIApp:
        """What the model is and can do."""
        _, description = await served.receive(
            request, OllamaShowBody, lambda _: OllamaModelDescription.of(served, served.llm.info)
        )
        return JSONResponse(description)

    async def ps(_: Request) -> ASGIApp:
        """The model, once it is loaded. It stays loaded until the server ends."""
        return JSONResponse(running_list(served))

    async def version(_: Request) -> ASGIApp:
        """Which of Ollama's versions this server stands in for."""
        return JSONResponse(OllamaVersion(SPOKEN, __version__))

    return [
        Operation("GET", "/api/tags", tags, TAG, OllamaModelList),
        Operation("POST", "/api/show", show, TAG, OllamaModelDescription, OllamaShowBody, REFUSALS),
        Operation("GET", "/api/ps", ps, TAG, OllamaRunningModels),
        Operation("GET", "/api/version", version, TAG, OllamaVersion),
    ]


def model_list(served: ServedModel) -> OllamaModelList:
    """The body of /api/tags."""
    return OllamaModelList([OllamaModel.of(name, served) for name in served.all_names])


def running_list(served: ServedModel) -> OllamaRunningModels:
    """The body of /api/ps."""
    running = [served.id_for(None)] if served.llm.state == "ready" else []
    return OllamaRunningModels([OllamaRunningModel.of(name, served.llm.plan) for name in running])
