"""The ASGI app: the operations of every dialect, the page, and the documentation."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from edgellm import __version__
from edgellm.errors import EdgeLLMError
from edgellm.sdk.client import EdgeLLM
from edgellm.server import adapters, openapi, state
from edgellm.server.access import Access
from edgellm.server.beside import beside
from edgellm.server.dialects.anthropic import operations as anthropic
from edgellm.server.dialects.llama_server import operations as llama_server
from edgellm.server.dialects.ollama import operations as ollama
from edgellm.server.dialects.openai import embeddings
from edgellm.server.dialects.openai import operations as openai
from edgellm.server.dialects.rerank import operations as rerank
from edgellm.server.dialects.responses import operations as responses
from edgellm.server.errors import HttpError
from edgellm.server.intake import Intake
from edgellm.server.kept_file import KeptFile, KeptFiles
from edgellm.server.middleware import Guard
from edgellm.server.names import ModelNames
from edgellm.server.openapi import Operation
from edgellm.server.responses import failure, hung_up, not_routed
from edgellm.server.served_model import ServedModel

WEB = Path(__file__).parent / "web"
OLLAMA_RUNS = "Ollama is running"
_BY_ACCEPT = {"vary": "accept"}


def create_app(
    llm: EdgeLLM,
    *,
    api_key: str | None = None,
    host: str = "127.0.0.1",
    intake: Intake | None = None,
    strict_fields: bool = False,
    names: ModelNames | None = None,
    allow_manage: bool = False,
    node: str = "",
) -> Starlette:
    """The ASGI app that serves `llm`, which may still be loading. The caller closes `llm`. Its `state.served` is the
    `ServedModel`.

    Args:
        api_key: required of every request except those for the page, the documentation and /health; None = only
            loopback names are answered.
        host: the name that the server is bound to, which is answered too.
        intake: limits of what requests may hold.
        strict_fields: fields that nothing here knows are refused.
        names: by which clients may ask for the model.
        allow_manage: programs may fetch models into the store and delete them, and load and drop adapters.
        node: the name of this machine among those that answer together; plan and metrics say it.
    """
    intake = intake or Intake()
    model = ServedModel(llm, strict_fields=strict_fields, names=names, node=node)
    operations = [
        # Paths are compared in this order, so what is asked most comes first.
        *openai.operations(model),
        *responses.operations(model),
        *anthropic.operations(model),
        *ollama.operations(model, allow_manage=allow_manage),
        *embeddings.operations(model),
        *rerank.operations(model),
        *llama_server.operations(model),
        *state.operations(model),
        *adapters.operations(model, allow_manage=allow_manage),
    ]
    app = Starlette(
        routes=[*(route for operation in operations for route in operation.routes()), _openapi(operations), *_pages()],
        middleware=[
            Middleware(
                Guard,
                intake=intake,
                access=Access(intake, api_key=api_key, names=(host,)),
                totals=model.activity.requests,
            )
        ],
        exception_handlers={
            EdgeLLMError: failure,
            HttpError: failure,
            HTTPException: not_routed,
            ClientDisconnect: hung_up,
        },
    )
    app.state.served = model
    # A redirect would repeat the Host that the client sent.
    app.router.redirect_slashes = False
    return app


def _openapi(operations: list[Operation]) -> Route:
    making = asyncio.Lock()

    @functools.cache
    def encoded() -> bytes:
        return msgspec.json.encode(openapi.document(operations, title="EdgeLLM", version=__version__))

    async def document(_: Request) -> Response:
        # Made when it is first asked for, once and beside the event loop: most servers are never asked.
        async with making:
            return Response(await beside(encoded), media_type="application/json")

    return Route("/openapi.json", document)


def _pages() -> list[Route | Mount]:
    async def page(request: Request) -> Response:
        # Programs look here for Ollama; browsers say that they read HTML.
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(OLLAMA_RUNS, headers=_BY_ACCEPT)
        return KeptFile(WEB / "index.html", headers={"cache-control": "no-cache", **_BY_ACCEPT})

    async def docs(_: Request) -> Response:
        return KeptFile(WEB / "docs.html")

    async def icon(_: Request) -> Response:
        return KeptFile(WEB / "icon.svg")

    return [
        Route("/", page),
        Route("/docs", docs),
        Route("/favicon.ico", icon),
        Mount("/web", KeptFiles(directory=WEB)),
    ]
