"""The HTTP server's routes put together: OpenAI's face, the page, its documentation, and what runs here and why."""

from __future__ import annotations

import importlib.resources
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from edgellm import __version__
from edgellm.contract.backend import EngineInfo
from edgellm.errors import EdgeLLMError
from edgellm.sdk.client import EdgeLLM
from edgellm.server import embeddings, errors
from edgellm.server.errors import HttpError
from edgellm.server.middleware import MAX_BODY_BYTES, Guard
from edgellm.server.openai import Served, router
from edgellm.server.schemas import response
from edgellm.server.schemas.embeddings import EmbeddingBody, RerankBody
from edgellm.server.schemas.request import ChatBody, CompletionBody

WEB = Path(__file__).parent / "web"
PLAN_SCHEMA = 1


def create_app(
    llm: EdgeLLM, *, api_key: str | None = None, host: str = "127.0.0.1", max_body_bytes: int = MAX_BODY_BYTES
) -> FastAPI:
    """The ASGI app that serves `llm`, which may still be loading. The caller closes `llm`.

    Args:
        api_key: asked of every request but those for the page and /health; None = only loopback names are answered.
        host: the name it is bound to, which is answered too.
    """
    app = FastAPI(
        title="EdgeLLM", version=__version__, docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None
    )
    served = Served(llm)
    app.include_router(router(served))
    app.include_router(embeddings.router(served))
    _add_state(app, served)
    _add_pages(app)
    for kind in (EdgeLLMError, HttpError, HTTPException):
        app.add_exception_handler(kind, _failed)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.add_middleware(Guard, api_key=api_key, names=(host,), max_body=max_body_bytes)
    return app


def _add_state(app: FastAPI, served: Served) -> None:
    @app.get("/health", tags=["State"], responses={200: {"model": response.Health}, 503: {"model": response.Health}})
    async def health() -> Response:
        """200 `ok` when requests are answered; 503 `loading` or `failed` with the reason otherwise."""
        state = served.llm.state
        told = response.Health("ok") if state == "ready" else response.Health(state, served.reason())
        return _json(told, 200 if state == "ready" else 503)

    @app.get("/edgellm/plan", tags=["State"], response_model=None)
    async def plan() -> Response:
        """What runs here and why: the plan, the reasons, and how the choice was made (docs/http.md has the schema)."""
        return _json(describe(served))


def describe(served: Served) -> dict[str, Any]:
    """The body of /edgellm/plan."""
    llm = served.llm
    plan, decision = llm.plan, llm.decision
    artifact, footprint = plan.artifact, plan.footprint
    # Waiting for the model would hold up the event loop; while it loads nothing is known of it.
    info = llm.info if llm.state == "ready" else None
    return {
        "schema": PLAN_SCHEMA,
        "state": llm.state,
        "reason": served.reason(),
        "model": artifact.model_id,
        "quant": artifact.quant,
        "format": artifact.format,
        "file_bytes": artifact.bytes,
        "backend": plan.backend,
        "settings": asdict(plan.settings),
        "chat": info is None or info.chat_template is not None,
        "can": _abilities(info),
        "memory": None if footprint is None else {**asdict(footprint), "resident_bytes": footprint.resident_bytes},
        "decode": None if decision is None or decision.choice is None else asdict(decision.choice.decode),
        "verified": llm.verification.summary(),
        "engine": {} if info is None else {"device": info.device, **info.details},
        "reasons": plan.reasons,
        "decision": None if decision is None else msgspec.to_builtins(decision),
        "version": __version__,
    }


def _abilities(info: EngineInfo | None) -> list[str]:
    """What the model can be asked for: "generate", "embed", "rerank"; nothing is known while it loads."""
    if info is None:
        return []
    return ["generate"] * info.generates + [name for name in ("embed", "rerank") if name in info.capabilities]


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(WEB / "index.html", media_type="text/html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(WEB / "docs.html", media_type="text/html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return FileResponse(WEB / "icon.svg", media_type="image/svg+xml")

    # FastAPI's own page loads Swagger UI from a content network; this package carries the same files.
    swagger = Path(str(importlib.resources.files("fastapi_offline") / "static"))
    app.mount("/docs/swagger", StaticFiles(directory=swagger))
    app.mount("/web", StaticFiles(directory=WEB))


async def _failed(request: Request, error: Exception) -> Response:
    """Every foreseen failure in one shape; the guard has the others."""
    if isinstance(error, HTTPException):
        detail, code = error.detail, {404: "unknown_path", 405: "wrong_method"}.get(error.status_code, "http_error")
        where = f"{request.method} {request.url.path[:200]}: {detail}"
        error = HttpError(error.status_code, where, code=code, hint="see /docs for what there is")
    status = errors.status_of(error)
    headers = {name.decode(): value.decode() for name, value in errors.headers_of(status)}
    return Response(errors.encode(error), status, headers)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema and the bodies that we read ourselves."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.__doc__ or "")
        schema["info"]["description"] = "OpenAI-compatible. Fields that are not supported are refused by name."
        _, bodies = models_json_schema(
            [(body, "validation") for body in (ChatBody, CompletionBody, EmbeddingBody, RerankBody)],
            ref_template="#/components/schemas/{model}",
        )
        schema["components"]["schemas"].update(bodies["$defs"])
        app.openapi_schema = schema
    return app.openapi_schema


def _json(content: object, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(content), status, media_type="application/json", headers={"cache-control": "no-store"}
    )
