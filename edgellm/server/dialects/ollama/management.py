"""`/api/pull`, `/api/copy` and `/api/delete`: only where the server was started to allow it, and never to a browser."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from pathlib import Path

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from edgellm.app import context, removal
from edgellm.app.resolve import ReferenceKind, refer
from edgellm.errors import SourceError, TooManyRequests, UnknownModel, UsageError
from edgellm.server import errors, request_log
from edgellm.server.beside import beside
from edgellm.server.dialects.ollama.models import OllamaNameBody
from edgellm.server.dialects.ollama.pulling import BEGUN, DONE, OllamaProgress, Pull
from edgellm.server.dialects.ollama.refusals import REFUSALS, TAG
from edgellm.server.error_form import OLLAMA
from edgellm.server.managing import check_may_manage
from edgellm.server.openapi import LINES, Operation
from edgellm.server.responses import JSONResponse
from edgellm.server.schemas.fields import RequestBody
from edgellm.server.served_model import ServedModel
from edgellm.store.library import Library
from edgellm.store.manifest import StoredModel
from edgellm.store.sources.hub_files import parse_hub_uri
from edgellm.types.model import Artifact

MOST_DOWNLOADS = 2  # at the same time
HUB = "hf.co/"  # how Ollama names repositories of the hub
HUB_SCHEME = "hf://"  # how they are named here

Lines = AsyncGenerator[OllamaProgress, None]


class OllamaPullBody(OllamaNameBody, kw_only=True):
    """POST /api/pull."""

    IGNORED = ("insecure", "username", "password")

    stream: bool | None = None


class OllamaCopyBody(RequestBody, kw_only=True):
    """POST /api/copy."""

    text_field = "source"
    example = '{"source": "...", "destination": "..."}'

    source: str
    destination: str


class Management:
    """What clients may change. `allowed`: whether they may change anything."""

    def __init__(self, served: ServedModel, *, allowed: bool) -> None:
        self._served = served
        self._allowed = allowed
        self._fetching: dict[str, Pull] = {}  # by what is fetched, until the thread has ended

    def check(self, request: Request) -> None:
        """Raises HttpError: see `managing.check_may_manage`."""
        instead = "the command line: edgellm pull, edgellm rm"
        check_may_manage(request, allowed=self._allowed, what="models", instead=instead)

    def has(self, name: str) -> bool:
        """Whether there is nothing to fetch. Where models are fetched, `--any-model` makes none of another name."""
        names = self._served.names._replace(any=False) if self._allowed else self._served.names
        return names.include(name, self._served.id) or name == self._served.llm.plan.served_as

    async def begin(self, name: str) -> Pull:
        """Begin a download.

        Raises:
            UsageError: it is neither an id of the catalog nor a repository of the hub.
            TooManyRequests: it is being fetched already, or MOST_DOWNLOADS others are.
        """
        model = await beside(_published, name)
        if model in self._fetching:
            raise TooManyRequests(f"{name[:80]} is being fetched already", hint="try again when it has been")
        if len(self._fetching) >= MOST_DOWNLOADS:
            raise TooManyRequests(f"{len(self._fetching)} models are being fetched already", hint="try again later")
        pull = self._fetching[model] = Pull(model)
        pull.start(lambda: self._fetching.pop(model))
        return pull

    def remove(self, name: str) -> None:
        """Forget an alias, or delete what is stored under a name.

        Raises:
            UnknownModel: nothing is; UsageError: it is served, or in use.
        """
        served = self._served
        if (names := served.names.without_alias(name)) != served.names:
            served.names = names
            return
        library = Library()
        chosen = removal.named(name.removesuffix(":latest"), library.installed())
        if any(_is_of(served.llm.plan.artifact, stored) for stored in chosen):
            raise UsageError(f"{name[:80]} is served here", hint="stop the server first", param="model")
        removal.require_idle(chosen)
        for stored in chosen:
            library.remove_entry(stored)


def operations(served: ServedModel, *, allowed: bool) -> list[Operation]:
    """The operations that change what is stored, or what it is called."""
    management = Management(served, allowed=allowed)

    async def pull(request: Request) -> ASGIApp:
        """Fetch a model into the store, in lines of JSON unless `stream` is false. The one that is served is here."""
        body = await served.receive_names(request, OllamaPullBody)
        name = _required(body.model)
        if management.has(name):
            return JSONResponse(DONE) if body.stream is False else _Lines(request, _nothing_to_fetch())
        management.check(request)
        fetching = await management.begin(name)
        if body.stream is not False:
            return _Lines(request, fetching.lines(), fetching)
        with fetching:
            async for _ in fetching.lines():
                if await request.is_disconnected():
                    raise ClientDisconnect
        return JSONResponse(DONE)

    async def copy(request: Request) -> ASGIApp:
        """Give the model that is served another name, for as long as the server runs."""
        management.check(request)
        body = await served.receive_names(request, OllamaCopyBody)
        if not served.is_named(body.source):
            raise served.unknown(body.source)
        served.names = served.names.with_alias(body.destination)
        return Response()

    async def delete(request: Request) -> ASGIApp:
        """Delete a model from the store, or a name that `/api/copy` gave. The one that is served stays."""
        management.check(request)
        body = await served.receive_names(request, OllamaNameBody)
        await beside(management.remove, _required(body.model))
        return Response()

    return [
        Operation(
            "POST",
            "/api/pull",
            pull,
            TAG,
            OllamaProgress,
            OllamaPullBody,
            REFUSALS,
            streams=LINES,
        ),
        Operation("POST", "/api/copy", copy, TAG, None, OllamaCopyBody, REFUSALS),
        Operation("DELETE", "/api/delete", delete, TAG, None, OllamaNameBody, REFUSALS),
    ]


async def _nothing_to_fetch() -> Lines:
    yield BEGUN
    yield DONE


class _Lines(StreamingResponse):
    """Lines of JSON. When nobody reads them any more, also before the first, what tells them ends."""

    def __init__(self, request: Request, lines: Lines, source: Pull | None = None) -> None:
        super().__init__(_written(request, lines), media_type="application/x-ndjson")
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._source or nullcontext():
            await super().__call__(scope, receive, send)


async def _written(request: Request, lines: Lines) -> AsyncGenerator[bytes, None]:
    record = request_log.of_scope(request.scope)
    async with aclosing(lines):
        try:
            async for line in lines:
                yield msgspec.json.encode(line) + b"\n"
        except Exception as error:
            # The status has been sent; Ollama's clients raise a line with an error.
            record.error = errors.code_of(error)
            yield OLLAMA.in_stream(error, record.id)


def _published(name: str) -> str:
    """What `edgellm pull` takes. No path and no other address: a client must not make this server read or ask those.

    Raises:
        UsageError: it is one of them.
    """
    asked = HUB_SCHEME + name.removeprefix(HUB) if name.startswith(HUB) else name.removesuffix(":latest")
    hint = "send an id of `edgellm models`, or hf.co/OWNER/REPO:QUANT"
    try:
        # The rows alone: what the machine has takes a second of the threads that all requests share.
        kind = refer(asked, context.cards()).kind
        if name.startswith(HUB):
            parse_hub_uri(asked)
    except SourceError as error:  # of nothing but the name: no source was asked
        raise UsageError(error.message, hint=hint, param="model") from None
    if kind is ReferenceKind.CARD or (kind is ReferenceKind.ADDRESS and name.startswith(HUB)):
        return asked
    raise UsageError(f"{name[:80]!r} is not fetched for clients", hint=hint, param="model")


def _is_of(artifact: Artifact, stored: StoredModel) -> bool:
    """Whether what runs was loaded from this entry."""
    same_name = (artifact.model_id, artifact.quant) == (stored.model_id, stored.quant)
    return same_name or any(Path(path).is_relative_to(stored.folder) for path in artifact.paths)


def _required(name: str | None) -> str:
    if not name:
        raise UnknownModel("no model is named", hint='send {"model": "..."}', param="model")
    return name
