"""JSON responses."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from edgellm.server import errors, request_log
from edgellm.server.error_form import form_for
from edgellm.server.errors import HttpError

NO_STORE = {"cache-control": "no-store"}


class JSONResponse(Response):
    """A response whose content msgspec encodes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def client_closed(request: Request) -> Response:
    """What ends a request whose client has gone, or was cut off: only the log has it."""
    return Response(status_code=request_log.note_closed(request.scope))


async def hung_up(request: Request, _: Exception) -> Response:
    """The response to a request whose client went away while it sent its body."""
    return client_closed(request)


async def failure(request: Request, error: Exception) -> Response:
    """The response to a request that ended with an `EdgeLLMError` or an `HttpError`."""
    record, form = request_log.of_scope(request.scope), form_for(request.scope)
    record.error = errors.code_of(error)
    status = form.status_of(error)
    headers = {name.decode(): value.decode() for name, value in errors.headers_of(status)}
    return Response(form.encode(error, record.id), status, headers)


async def not_routed(request: Request, error: Exception) -> Response:
    """The response to a request for which Starlette has no route, in the shape of every other error.

    It comes behind the body: a client that wants the connection closed would find it reset instead.
    """
    try:
        async for _ in request.stream():
            continue
    except ClientDisconnect:
        return client_closed(request)
    status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
    code = {404: "unknown_path", 405: "wrong_method"}.get(status, "http_error")
    where = f"{request.method} {request.url.path[:200]}: {detail}"
    hint = "see /docs for what there is"
    if status == 404 and request.url.path.startswith("/v1/v1/"):
        hint = "leave /v1 out of the address that the client is given: it adds its own"
    response = await failure(request, HttpError(status, where, code=code, hint=hint))
    if status == 405:
        response.headers["allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """What may be sent to this path, of all its routes."""
    routes: list[BaseRoute] = request.app.routes
    fitting = (route for route in routes if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE)
    return sorted({method for route in fitting for method in route.methods or ()})
