"""HTTP for model files: one request, redirects followed by hand, so that a token never goes to another host.

httpx2 sends, which huggingface_hub brings along. Its transport is used without its client: the client writes whole
addresses into the log, and no address is shown with its query here, where services put signatures. Proxies and
certificates are the system's (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE).
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

from edgellm import settings
from edgellm.errors import SourceError, SourceUnreachable, UnknownModel, option
from edgellm.store import nearness
from edgellm.store.address import check_address, redacted
from edgellm.store.nearness import Nearness
from edgellm.version import __version__

if TYPE_CHECKING:
    import ssl

    import httpx2

TIMEOUT_S = 20.0  # without a byte; for all headers of a response
# What comes more slowly than this, after so much waiting, is not waited for: it would take for ever.
SLOW_S, LEAST_BYTES_S = 60.0, 100
TRIES = 4
BACKOFF_S = 0.5  # doubled each time
LONGEST_WAIT_S = 30.0  # that a server may ask for with Retry-After
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 8
BUSY = (408, 425, 429, 500, 502, 503, 504)
_SECRET = ("authorization", "cookie", "proxy-authorization")


class Response:
    """An open response: `status`, `headers`, and a body that is read piece by piece."""

    def __init__(self, response: httpx2.Response, url: str, connection: contextlib.ExitStack, watch: _Watch) -> None:
        self.url = url
        self.place = watch.place  # of who sent it; None = a proxy did
        self.status = response.status_code
        self.headers = response.headers
        self._connection = connection
        self._watch = watch
        self._pieces = response.iter_raw()
        self._rest = b""  # of a piece that was longer than was asked for
        self._n_bytes, self._waited_s = 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def read(self, n_bytes: int) -> bytes:
        """The next bytes, at most `n_bytes`, as soon as there are any; b"" at the end, or where the other side hung up.

        Raises:
            SourceUnreachable: nothing came for TIMEOUT_S, or next to nothing for SLOW_S.
        """
        import httpx2

        try:
            piece = self._rest or self._next()
        except httpx2.TimeoutException as error:
            raise SourceUnreachable(
                f"{redacted(self.url)} stopped sending: {reason_of(error)}",
                hint="check the network, or try again later",
            ) from error
        except httpx2.TransportError:
            return b""
        self._rest = piece[n_bytes:]
        return piece[:n_bytes]

    def whole(self, limit_s: float) -> Iterator[bytes]:
        """The rest of the body, piece by piece.

        Raises:
            SourceUnreachable: it is not there after `limit_s` seconds, or the other side hung up before its end.
        """
        import httpx2

        reason = ""
        with self._watch.limit(limit_s):
            try:
                while piece := self._next():
                    yield piece
            except httpx2.TransportError as error:
                reason = reason_of(error)
        if reason or self._watch.is_over:
            what = f"was not sent within {limit_s:.0f} s" if self._watch.is_over else f"stopped sending: {reason}"
            raise SourceUnreachable(f"{redacted(self.url)} {what}", hint="check the network, or try again later")

    def _next(self) -> bytes:
        """What comes next from the network."""
        began = time.monotonic()
        piece = next(self._pieces, b"")
        self._waited_s += time.monotonic() - began
        self._n_bytes += len(piece)
        if piece and self._waited_s > SLOW_S and self._n_bytes < LEAST_BYTES_S * self._waited_s:
            what = f"{redacted(self.url)} sent {self._n_bytes} bytes in {self._waited_s:.0f} s"
            raise SourceUnreachable(what, hint="try again later, or another source")
        return piece

    def number(self, header: str) -> int | None:
        """A header that is a number, None where it is absent or none."""
        value = self.headers.get(header, "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None


def get(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    hint: str = "",
    timeout_s: float | None = None,
    tries: int = TRIES,
) -> Response:
    """The response of status 200, 206 or 416. A server that is busy or fails is asked again, `tries` times in all.

    Raises:
        SourceError: an address that may not be asked, or access refused (then `hint` says what to do).
        UnknownModel: not there. SourceUnreachable: no response, too busy, or EDGELLM_OFFLINE is set.
    """
    if settings.current().offline:
        raise SourceUnreachable(
            f"{redacted(url)} is not asked: EDGELLM_OFFLINE is set", hint=f"unset it, or leave {option('offline')} out"
        )
    delay = BACKOFF_S
    for left in reversed(range(tries)):
        try:
            response = request("GET", url, headers or {}, timeout_s=TIMEOUT_S if timeout_s is None else timeout_s)
        except SourceUnreachable:
            if not left:
                raise
            wait: float = delay
        else:
            if response.status in (200, 206, 416):
                return response
            response.close()
            retry_after = response.number("Retry-After")
            wait = delay if retry_after is None else retry_after
            if response.status not in BUSY or not left or wait > LONGEST_WAIT_S:
                raise _refusal(response, url, hint)
        time.sleep(wait)
        delay *= 2
    raise AssertionError("unreachable")


def request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    is_followed: Callable[[str], bool] = lambda target: True,
) -> Response:
    """The response of whatever status, asked for once; `is_followed` says which redirects are followed.

    Raises:
        SourceError: an address that may not be asked, or too many redirects. SourceUnreachable: its headers are not
        there after `timeout_s` seconds.
    """
    sent = dict(headers)
    nearest = Nearness.HERE  # the address that the user named may be anywhere
    for _ in range(_MOST_REDIRECTS):
        check_address(url)
        response = _open(method, url, sent, timeout_s, nearest)
        target = urljoin(url, response.headers.get("Location", ""))
        if response.status not in _REDIRECTS or not is_followed(target):
            return response
        response.close()
        old, new = urlsplit(url), urlsplit(target)
        nearest = nearness.of_host(old.hostname or "") if response.place is None else response.place
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            sent = {name: value for name, value in sent.items() if name.lower() not in _SECRET}
        url = target
    raise SourceError(f"{redacted(url)} redirects {_MOST_REDIRECTS} times", hint="give the final address")


def _open(method: str, url: str, headers: Mapping[str, str], timeout_s: float, nearest: Nearness) -> Response:
    # Loaded when it is needed: with ssl it takes 100 ms, which commands that fetch nothing do without.
    import httpx2

    sent = {"User-Agent": f"edgellm/{__version__}", "Accept-Encoding": "identity", "Connection": "close", **headers}
    with contextlib.ExitStack() as stack:
        watch = _Watch(url, nearest)
        try:
            transport = stack.enter_context(httpx2.HTTPTransport(verify=_tls(), proxy=watch.proxy))
            extensions = {"timeout": httpx2.Timeout(timeout_s).as_dict(), "trace": watch.trace}
            watch.judge_proxied()
            with watch.limit(timeout_s):
                response = transport.handle_request(httpx2.Request(method, url, headers=sent, extensions=extensions))
            stack.callback(response.close)
        # ValueError, ImportError: a proxy of a kind that httpx2 does not speak to.
        except (httpx2.TransportError, httpx2.InvalidURL, OSError, ValueError, ImportError) as error:
            reason = "timed out" if watch.is_over else reason_of(error)
            message = f"{redacted(url)} cannot be reached{through(url)}: {reason}"
            hint = f"check the network, or use {option('offline', True)}"
            raise SourceUnreachable(message, hint=hint) from error
        return Response(response, url, stack.pop_all(), watch)


class _Watch:
    """Over one request: it ends one that is not answered in time, and one that was led to a nearer place.

    An answer that comes byte by byte would pass httpx2's timeout, which counts from one byte to the next. The place is
    judged by the address of the connected socket, before anything is sent, so that no name can change in between.
    """

    def __init__(self, url: str, nearest: Nearness) -> None:
        self.is_over = False
        self.proxy = _proxy(url)
        self.place: Nearness | None = None
        self._url = url
        self._nearest = nearest
        self._socket: socket.socket | None = None

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """What is in the block is ended after that many seconds."""
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def judge_proxied(self) -> None:
        """Judges, by its name, what a proxy is asked for."""
        if self.proxy is not None and self._nearest is not Nearness.HERE:
            self._judge(nearness.of_host(urlsplit(self._url).hostname or ""))

    def trace(self, event: str, details: dict[str, Any]) -> None:
        """httpcore's extension of that name: told of the connection, first plain, then encrypted."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = details["return_value"].get_extra_info("socket")
            if self.is_over:  # while the name was looked up
                self._end()
        if event.endswith(".connect_tcp.complete") and self.proxy is None and self._socket is not None:
            self.place = nearness.of_address(self._socket.getpeername()[0])
            self._judge(self.place)

    def _judge(self, place: Nearness) -> None:
        if place > self._nearest:
            where = "on this machine or its link" if place is Nearness.HERE else "in a private network"
            self._end()
            raise SourceError(
                f"a redirect leads to {redacted(self._url)}, which is {where}",
                hint="the server is not to be trusted; if it is your own, name the final address",
            )

    def _end(self) -> None:
        self.is_over = True
        with contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


@cache
def _tls() -> ssl.SSLContext:
    """The system's certificates; certifi's where a bare container has none."""
    import ssl

    import certifi
    import httpx2

    if sys.platform == "linux" and not _has_certificates():
        return ssl.create_default_context(cafile=certifi.where())
    return httpx2.create_ssl_context()


def _has_certificates() -> bool:
    import ssl

    places = ssl.get_default_verify_paths()  # None for a file or folder that is not there
    return places.cafile is not None or (places.capath is not None and any(Path(places.capath).iterdir()))


def _proxy(url: str) -> str | None:
    """The proxy that the environment, or the system's settings, name for this address."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def through(url: str) -> str:
    """The proxy for this address, for a message; "" = none."""
    proxy = _proxy(url)
    return f" through the proxy {redacted(proxy)}" if proxy else ""


def reason_of(error: BaseException) -> str:
    """An error of the network in a few words: those of the system, where it is behind it."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)[:200] or type(error).__name__


def _refusal(response: Response, url: str, hint: str) -> SourceError | UnknownModel:
    where, status = redacted(url), response.status
    if status in (401, 403):
        return SourceError(f"{where} refuses access (status {status})", hint=hint or "it asks for a licence or a login")
    if status in (404, 410):
        return UnknownModel(f"{where} does not exist (status {status})", hint=hint or "check the address")
    if status == 429:
        return SourceUnreachable(f"{where} is asked too often (status 429)", hint="try again later")
    if status >= 500:
        return SourceUnreachable(f"{where} fails (status {status})", hint="try again later")
    return SourceError(f"{where} answers with status {status}", hint=hint or "check the address")
