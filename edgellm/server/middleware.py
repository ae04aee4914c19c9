"""The guard in front of all routes: it lets requests in, keeps their records, and adds security headers.

It is a plain ASGI wrapper, so a streamed chunk passes through one function only.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgellm.errors import EdgeLLMError
from edgellm.server import errors, request_log
from edgellm.server.access import HEALTH, Access
from edgellm.server.activity import RequestTotals
from edgellm.server.beginnings import Beginnings
from edgellm.server.error_form import ANTHROPIC, ErrorForm, form_for
from edgellm.server.errors import HttpError
from edgellm.server.intake import Incoming, Intake
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas import unknown

_log = logging.getLogger("edgellm.server")

_CSP = "default-src 'none'; script-src 'self'; style-src 'self'{inline}; img-src 'self' data:; connect-src 'self'; "
_CSP += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Swagger UI sets style attributes. Nothing else needs inline styles, and nothing runs inline scripts.
_STRICT, _DOCS = (_CSP.format(inline=inline).encode() for inline in ("", " 'unsafe-inline'"))
# The page makes markup of what the model writes, through DOMPurify's policy alone.
_PAGE = _STRICT + b"; require-trusted-types-for 'script'; trusted-types dompurify"
_CSPS = {"/": _PAGE, "/docs": _DOCS}
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """Wraps an ASGI app, and keeps the record of each request."""

    def __init__(self, app: ASGIApp, *, intake: Intake, access: Access, totals: RequestTotals) -> None:
        """`totals`: what ended is counted there."""
        self._app = app
        self._intake = intake
        self._access = access
        self._totals = totals
        self._beginnings = Beginnings()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord.begin(scope)
        body = Incoming(scope, receive, self._intake)
        form = form_for(scope)
        secured = _Secured(send, scope["path"], record, body, form)
        try:
            error = await self._answer(scope, body, secured, record)
            if error is not None:
                await respond(secured, error, form, record.id)
        finally:
            body.release()
            record.end()
            if scope["path"] != HEALTH:  # a probe's, every few seconds, would hide what was asked
                self._totals.add(record.status, record.error, record.seconds)

    async def _answer(self, scope: Scope, body: Incoming, secured: _Secured, record: RequestRecord) -> Exception | None:
        """What the response has to say, where there is none."""
        try:
            await self._beginnings.turn(record.counts_as)
            self._access.check(scope)
            await self._app(scope, body, secured)
        except asyncio.CancelledError:
            refusal = body.refusal()
            if refusal is None:
                raise
            record.error = refusal.code
            return refusal
        except Exception as error:
            record.error = errors.code_of(error)
            if record.error == errors.OUT_OF_MEMORY:
                told = "no memory was left for %s %s (%s); EDGELLM_SERVER_MEMORY says how much the server may take"
                _log.warning(told, record.method, record.path, record.id)
            elif not secured.started and not isinstance(error, (HttpError, EdgeLLMError)):
                _log.error("%s %s failed (%s)", record.method, record.path, record.id, exc_info=error)
            if secured.started:
                raise  # the server drops the connection, so that a client cannot take half an answer for a whole one
            if not isinstance(error, MemoryError):
                return error
        else:
            return None
        return errors.out_of_memory()  # behind the block what the request has made is gone


class _Secured:
    """`send` that adds what each response says of itself, and lets go of the body where the answer begins."""

    def __init__(self, send: Send, path: str, record: RequestRecord, body: Incoming, form: ErrorForm) -> None:
        self._send = send
        self._csp = _CSPS.get(path, _STRICT)
        self._id_names = (request_log.HEADER, *((b"request-id",) if form is ANTHROPIC else ()))
        self._record = record
        self._body = body
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._body.responds()
            self._record.responds(message["status"])
            own = [(b"content-security-policy", self._csp)]
            own += [(name, self._record.id.encode()) for name in self._id_names]
            if self._record.ignored:
                own.append((unknown.HEADER.encode(), self._record.ignored.encode()))
            message = {**message, "headers": [*message.get("headers", ()), *_ALWAYS, *own]}
        await self._send(message)


async def respond(send: Send, error: Exception, form: ErrorForm, request_id: str) -> None:
    """Send the whole response to a request that failed."""
    status, body = form.status_of(error), form.encode(error, request_id)
    headers = [*errors.headers_of(status), (b"content-length", str(len(body)).encode())]
    if isinstance(error, HttpError) and error.closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
