"""Operations: a route and its documentation in one value, and the OpenAPI document made of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from edgellm.server.schemas import response, unknown
from edgellm.server.schemas.fields import Fields, RequestBody, schemas_in

DESCRIPTION = (
    "OpenAI-compatible. Fields that are not supported are refused by name, and unknown ones named in a header."
)
# Media types of answers in pieces.
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
_REFERENCE = "#/components/schemas/{name}"
_NOT_SUPPORTED = "Not supported; accepted where it asks for nothing."
_IGNORED = "Accepted; it changes nothing here."
_UNKNOWN = {"description": "Names of unknown fields, which changed nothing.", "schema": {"type": "string"}}
_STRICT = {"description": "1: unknown fields are refused.", "schema": {"type": "string"}}


class ResponseDoc(NamedTuple):
    """A response of an operation, for the documentation."""

    type: type[Any] | None  # None: any JSON; str: plain text
    description: str


REFUSALS = {
    "4XX": ResponseDoc(response.Error, "The request is refused; `param` names the field."),
    "503": ResponseDoc(response.Error, "The model is loading, crashed or closed; see Retry-After."),
}


class Operation(NamedTuple):
    """A method of a path. The docstring of `handler` is its description."""

    method: str
    path: str  # as Starlette writes it: "/v1/models/{name:path}"
    handler: Callable[[Request], Awaitable[ASGIApp]]
    tag: str
    result: type[Any] | None  # of the response with status 200; None: any JSON
    body: type[RequestBody] | None = None
    other_replies: dict[str, ResponseDoc] = {}  # noqa: RUF012 - never changed; by status
    streams: str = ""  # the media type of answers in pieces; "" = there are none

    def routes(self) -> list[Route]:
        """What is below /v1 is also found without it, as llama-server has it."""
        paths = [self.path, self.path.removeprefix("/v1")]
        return [Route(path, self.handler, methods=[self.method]) for path in dict.fromkeys(paths)]

    def replies(self) -> dict[str, ResponseDoc]:
        return {"200": ResponseDoc(self.result, "Successful Response"), **self.other_replies}


def document(operations: Sequence[Operation], *, title: str, version: str) -> dict[str, Any]:
    """The OpenAPI document of these operations."""
    bodies = {operation.body for operation in operations if operation.body is not None}
    replies = [reply.type for operation in operations for reply in operation.replies().values()]
    results = {type_ for type_ in replies if type_ is not None and type_ is not str}
    types = sorted([*bodies, *results], key=lambda one: one.__name__)
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for schema in {schema for body in bodies for schema in schemas_in(body)}:
        _complete(components[schema.__name__], schema)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = re.sub(r":\w+}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _describe(operation, path)
    info = {"title": title, "description": DESCRIPTION, "version": version}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _complete(component: dict[str, Any], schema: type[Fields]) -> None:
    """Add the fields that are not struct fields."""
    properties = component["properties"]
    for name in schema.IGNORED:
        properties[name] = {"default": None, "description": _IGNORED}
    for name, neutral in schema.NOT_SUPPORTED.items():
        if name not in properties:
            properties[name] = {"default": None, "description": _NOT_SUPPORTED, "enum": [None, *neutral]}


def _describe(operation: Operation, path: str) -> dict[str, Any]:
    name = operation.handler.__name__
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": name.replace("_", " ").title(),
        "description": inspect.getdoc(operation.handler),
        "operationId": re.sub(r"\W", "_", f"{name}{path}") + f"_{operation.method.lower()}",
    }
    if parameters := re.findall(r"{(\w+)}", path):
        described["parameters"] = [
            {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
            for parameter in parameters
        ]
    described["responses"] = {
        status: {"description": reply.description, "content": _content(reply.type)}
        for status, reply in operation.replies().items()
    }
    if operation.streams:
        described["responses"]["200"]["content"][operation.streams] = {"schema": {}}
    if operation.body is not None:
        described["requestBody"] = {"content": _content(operation.body), "required": True}
        described["parameters"] = [{"name": unknown.STRICT_HEADER, "in": "header", **_STRICT}]
        described["responses"]["200"]["headers"] = {unknown.HEADER: _UNKNOWN}
    return described


def _content(type_: type[Any] | None) -> dict[str, Any]:
    if type_ is str:
        return {"text/plain": {"schema": {"type": "string"}}}
    schema = {} if type_ is None else {"$ref": _REFERENCE.format(name=type_.__name__)}
    return {"application/json": {"schema": schema}}


def status_reply(type_: type[Any], status: HTTPStatus) -> dict[str, ResponseDoc]:
    """A reply that needs no more words than its status has."""
    return {str(status.value): ResponseDoc(type_, status.phrase)}
