"""The guard in front of all routes: it checks key, host, origin, media type and body size, and adds security headers.

It is a plain ASGI wrapper, so a streamed chunk passes through one function only.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgellm.errors import EdgeLLMError, Unauthorized, UsageError
from edgellm.server import errors
from edgellm.server.errors import HttpError
from edgellm.store.http import is_loopback

MAX_BODY_BYTES = 10 * 1024**2
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# These need no key: the page and the documentation are the same for everyone, and /health tells nothing private.
OPEN_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json", "/favicon.ico"})
OPEN_PREFIX = "/web/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_log = logging.getLogger("edgellm.server")

_CSP = "default-src 'none'; script-src 'self'; style-src 'self'{inline}; img-src 'self' data:; connect-src 'self'; "
_CSP += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Swagger UI sets style attributes. Nothing else needs inline styles, and nothing runs inline scripts.
_STRICT, _DOCS = (_CSP.format(inline=inline).encode() for inline in ("", " 'unsafe-inline'"))
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def check_bind(host: str, api_key: str | None) -> None:
    """Check that a server that others can reach has a key.

    Raises:
        UsageError: `host` is not a loopback address and there is no key.
    """
    if api_key is None and not is_loopback(host.lower().strip("[]")):
        raise UsageError(
            f"--host {host} lets other machines in, and there is no API key",
            hint="set EDGELLM_API_KEY (or --api-key), or leave --host at 127.0.0.1",
            param="host",
        )


class Guard:
    """Wraps an ASGI app.

    With a key, it is required for every path except OPEN_PATHS and those below OPEN_PREFIX. Without one, only requests
    to loopback names and `names` are answered.
    """

    def __init__(
        self, app: ASGIApp, *, api_key: str | None = None, names: Iterable[str] = (), max_body: int = MAX_BODY_BYTES
    ) -> None:
        self._app = app
        self._key = api_key.encode() if api_key else None
        self._names = LOOPBACK_NAMES | {name.lower().strip("[]") for name in names}
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        secured = _Secured(send, scope["path"])
        try:
            self._check(scope)
        except (HttpError, EdgeLLMError) as error:
            await respond(secured, error)
            return
        try:
            await self._app(scope, _Bounded(receive, self._max_body), secured)
        except Exception as error:
            if secured.started:
                raise  # the server drops the connection, so that a client cannot take half an answer for a whole one
            _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            await respond(secured, error)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self._key is None:
            self._check_host(host)
        if scope["method"] not in SAFE_METHODS:
            _check_origin(headers.get(b"origin"), host)
            _check_media_type(headers.get(b"content-type", b""))
            _check_length(headers.get(b"content-length", b"0"), self._max_body)
        if self._key is not None and not _is_open(scope["path"]):
            _check_key(headers.get(b"authorization", b""), self._key)

    def _check_host(self, host: str) -> None:
        """A foreign page whose name resolves to this machine (DNS rebinding) still sends its own name."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name not in self._names:
            raise HttpError(
                403,
                f"this server does not answer to the host {host[:80]!r}",
                code="wrong_host",
                hint="use http://127.0.0.1 or http://localhost, or serve with an API key",
            )


class _Secured:
    """`send` that adds the security headers."""

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._csp = _DOCS if path == "/docs" else _STRICT
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = [*message.get("headers", ()), *_ALWAYS, (b"content-security-policy", self._csp)]
            message = {**message, "headers": headers}
        await self._send(message)


class _Bounded:
    """`receive` that enforces the size limit on bodies that come without a length."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise _too_large(self._limit)
        return message


async def respond(send: Send, error: Exception) -> None:
    """Send the whole response to a request that failed."""
    status, body = errors.status_of(error), errors.encode(error)
    headers = [*errors.headers_of(status), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


def _check_origin(origin: bytes | None, host: str) -> None:
    """Browsers name the page that sends a request; only our own page is allowed."""
    if origin is None:
        return
    try:
        netloc = urlsplit(origin.decode("latin-1")).netloc.lower()
    except ValueError:
        netloc = ""
    if netloc != host.lower() or not host:
        raise HttpError(
            403,
            f"requests from pages of {origin.decode('latin-1')[:80]!r} are not answered",
            code="wrong_origin",
            hint="call this server from your own program, or from its own page",
        )


def _check_media_type(content_type: bytes) -> None:
    media_type = content_type.split(b";")[0].strip().lower()
    if media_type != b"application/json":
        shown = media_type.decode("latin-1")[:80] or "nothing"
        raise HttpError(
            415,
            f"the content type is {shown!r}",
            code="wrong_content_type",
            hint="send content-type: application/json",
        )


def _check_length(length: bytes, limit: int) -> None:
    if not length.isdigit() or int(length[:20]) > limit:
        raise _too_large(limit)


def _check_key(authorization: bytes, key: bytes) -> None:
    scheme, _, credentials = authorization.partition(b" ")
    # In constant time: the duration must not show how much of a guess is right.
    if not hmac.compare_digest(credentials.strip(), key) or scheme.lower() != b"bearer":
        raise Unauthorized("the API key is missing or wrong", hint="send the header Authorization: Bearer KEY")


def _too_large(limit: int) -> HttpError:
    return HttpError(413, f"the body is larger than {limit} bytes", code="body_too_large", hint="send less text")
