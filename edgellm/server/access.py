"""Who may ask: a request is let in, or refused, by its key, host, origin, media type and the size that it announces."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

from starlette.types import Scope

from edgellm.errors import Unauthorized, UsageError
from edgellm.server.error_form import ANTHROPIC, ErrorForm, form_for
from edgellm.server.errors import HttpError
from edgellm.server.intake import Intake
from edgellm.store.address import is_loopback

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# These need no key: the page and the documentation are the same for everyone, and /health tells nothing private.
HEALTH = "/health"
OPEN_PATHS = frozenset({"/", HEALTH, "/docs", "/openapi.json", "/favicon.ico"})
OPEN_PREFIX = "/web/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # of which the last two have no route
SINGLE_HEADERS = frozenset({b"host", b"origin", b"content-type", b"content-encoding", b"authorization", b"x-api-key"})
UNTYPED_PREFIX = "/api/"
UNTYPED = (b"", b"application/x-www-form-urlencoded")  # the latter is what curl says of any text
BROWSER_HEADERS = frozenset({b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode"})
UTF_8 = (b"charset=utf-8", b'charset="utf-8"')
# Not a parser of addresses, which would find a name in `evil.com@127.0.0.1`.
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


def check_bind(host: str, api_key: str | None) -> None:
    """Check that a server that others can reach has a key, and that clients can send it.

    Raises:
        UsageError: `host` is not a loopback address and there is no key; or a key that no header can carry.
    """
    if api_key is not None and re.fullmatch(r"[!-~]+", api_key) is None:
        raise UsageError(
            "the API key has blanks or characters that no header carries",
            hint="use letters, digits and signs; look for a line end in the file that it is from",
            param="api_key",
        )
    if api_key is None and not is_loopback(host.lower().strip("[]")):
        raise UsageError(
            f"--host {host} lets other machines in, and there is no API key",
            hint="set EDGELLM_API_KEY (or --api-key), or leave --host at 127.0.0.1",
            param="host",
        )


class Access:
    """With a key, it is required for every path except OPEN_PATHS and those below OPEN_PREFIX. Without one, only
    requests to loopback names and `names` are answered.
    """

    def __init__(self, intake: Intake, *, api_key: str | None = None, names: Iterable[str] = ()) -> None:
        self._intake = intake
        self._key = api_key.encode() if api_key else None
        self._names = LOOPBACK_NAMES | {name.lower().strip("[]") for name in names}

    def check(self, scope: Scope) -> None:
        """Before a byte of its body is read.

        Raises:
            HttpError, Unauthorized: it is refused.
        """
        headers = _single(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        _check_framing(scope["http_version"], headers)  # first: HTTP/2 begins with a request that names no host
        if self._key is None:
            self._check_host(host)
        sends = scope["method"] not in SAFE_METHODS
        if sends:
            _check_origin(headers.get(b"origin"), host)
        if self._key is not None and not _is_open(scope["path"]):
            _check_key(headers, self._key, form_for(scope))
        if sends:
            _check_content(headers, scope["path"])
            length = headers.get(b"content-length", b"0")
            if not length.isdigit() or int(length[:20]) > self._intake.max_body:
                raise self._intake.too_large()

    def _check_host(self, host: str) -> None:
        """A foreign page whose name resolves to this machine (DNS rebinding) still sends its own name."""
        match = _HOST.fullmatch(host)
        if match is None or match[1].strip("[]").lower() not in self._names or int(match[2] or 0) > 65535:
            raise HttpError(
                403,
                f"this server does not answer to the host {host[:80]!r}",
                code="wrong_host",
                hint="use http://127.0.0.1 or http://localhost, or serve with an API key",
            )


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


def _single(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name. Of two of a name, a proxy may go by one and we by the other."""
    by_name: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in by_name and name in SINGLE_HEADERS:
            raise HttpError(400, f"the header {name.decode()} was sent twice", code="ambiguous", hint="send it once")
        by_name[name] = value
    return by_name


def _check_framing(version: str, headers: dict[bytes, bytes]) -> None:
    """Requests whose end two servers could see in two places."""
    if version not in ("1.0", "1.1"):
        spoken = f"HTTP/{version} is not spoken here"
        raise HttpError(505, spoken, code="wrong_version", hint="use HTTP/1.1", closes=True)
    expected = headers.get(b"expect", b"100-continue")
    if expected.lower() != b"100-continue":
        what = f"nothing is known of the expectation {expected.decode('latin-1')[:40]!r}"
        raise HttpError(417, what, code="wrong_expectation", hint="leave out the header Expect", closes=True)
    if b"transfer-encoding" in headers and b"content-length" in headers:
        both = "both a length and a transfer encoding were sent"
        raise HttpError(400, both, code="ambiguous", hint="send one of them", closes=True)
    if b"transfer-encoding" in headers and version == "1.0":
        encoded = "HTTP/1.0 knows no transfer encoding"
        raise HttpError(400, encoded, code="ambiguous", hint="use HTTP/1.1, or send a length", closes=True)


def _check_origin(origin: bytes | None, host: str) -> None:
    """Browsers name the page that sends a request; only our own page is allowed."""
    if origin is None:
        return
    scheme, _, netloc = origin.decode("latin-1").lower().partition("://")
    if scheme not in ("http", "https") or netloc != host.lower() or not host:
        raise HttpError(
            403,
            f"requests from pages of {origin.decode('latin-1')[:80]!r} are not answered",
            code="wrong_origin",
            hint="call this server from your own program, or from its own page",
        )


def _check_content(headers: dict[bytes, bytes], path: str) -> None:
    """Only JSON as it stands, in UTF-8. What has no body needs no type: OpenAI's client for Node deletes so.

    Clients of Ollama often do not say what they send. A page of somebody else cannot look like one of them: browsers
    say that they are browsers.
    """
    is_untyped = headers.get(b"content-type", b"") in UNTYPED
    if path.startswith(UNTYPED_PREFIX) and not headers.keys() & BROWSER_HEADERS and is_untyped:
        return
    if b"content-type" not in headers and not _has_body(headers):
        return
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    media_type, *parameters = headers.get(b"content-type", b"").lower().replace(b" ", b"").split(b";")
    charsets = [one for one in parameters if one.startswith(b"charset=")]
    if media_type == b"application/json" and encoding == b"identity" and all(one in UTF_8 for one in charsets):
        return
    if encoding != b"identity":
        what, hint = f"the body is encoded as {encoding.decode('latin-1')[:40]!r}", "send it as it is, not compressed"
    else:
        shown = b"; ".join([media_type or b"nothing", *charsets]).decode("latin-1")[:80]
        what, hint = f"the content type is {shown!r}", "send JSON in UTF-8 (curl: -H 'content-type: application/json')"
    raise HttpError(415, what, code="wrong_content_type", hint=hint)


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _check_key(headers: dict[bytes, bytes], key: bytes, form: ErrorForm) -> None:
    """As OpenAI's and as Anthropic's clients send it."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    sent = credentials.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
    # In constant time: the duration must not show how much of a guess is right.
    if not hmac.compare_digest(sent, key):
        header = "x-api-key: KEY" if form is ANTHROPIC else "Authorization: Bearer KEY"
        raise Unauthorized("the API key is missing or wrong", hint=f"send the header {header}")
