"""Routes of Ollama that answer 501 with the reason, so that nobody looks for the mistake elsewhere."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.server.dialects.ollama.refusals import TAG, OllamaError
from edgellm.server.errors import HttpError
from edgellm.server.openapi import Operation, status_reply


class NotServed(NamedTuple):
    """`instead`: what to do."""

    methods: tuple[str, ...]
    reason: str
    instead: str


_CREATE = "models are not made from Modelfiles or uploaded files here"
_FETCH = "fetch what is published (edgellm pull), or serve your own file: edgellm serve ./model.gguf"
_WEB = "the web is not searched or read from here"
_TOOL = "let your own program do it, as a tool of the model"
ROUTES = {
    "/api/create": NotServed(("POST",), _CREATE, _FETCH),
    "/api/blobs/{digest}": NotServed(("HEAD", "POST"), _CREATE, _FETCH),
    "/api/push": NotServed(("POST",), "models are not published from here", "upload the file where you publish it"),
    "/api/web_search": NotServed(("POST",), _WEB, _TOOL),
    "/api/web_fetch": NotServed(("POST",), _WEB, _TOOL),
}


def operations() -> list[Operation]:
    """One for each of the routes and methods."""
    return [_operation(method, path, row) for path, row in ROUTES.items() for method in row.methods]


def _operation(method: str, path: str, row: NotServed) -> Operation:
    async def not_served(_: Request) -> ASGIApp:
        raise HttpError(501, row.reason, code="not_served", hint=row.instead)

    not_served.__doc__ = f"Not served: {row.reason}."
    refusal = status_reply(OllamaError, HTTPStatus.NOT_IMPLEMENTED)
    return Operation(method, path, not_served, TAG, None, other_replies=refusal)
