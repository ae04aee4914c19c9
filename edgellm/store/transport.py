"""One HTTP request through urllib: no redirects, no files, statuses as answers, a deadline for the headers."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Mapping


def send(url: str, headers: Mapping[str, str], timeout_s: float) -> http.client.HTTPResponse:
    """The answer to a GET request, of any status.

    Raises:
        OSError, http.client.HTTPException, ValueError: as urllib does.
    """
    opener = urllib.request.OpenerDirector()
    opener.addheaders = []
    for handler in (urllib.request.ProxyHandler(), _Handler(), urllib.request.UnknownHandler()):
        opener.add_handler(handler)
    response = opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=timeout_s)
    assert isinstance(response, http.client.HTTPResponse)
    return response


class _Deadline:
    """Headers that come byte by byte would pass the timeout, which counts from one byte to the next."""

    def getresponse(self) -> http.client.HTTPResponse:
        connection: http.client.HTTPConnection = self  # type: ignore[assignment]
        watch = threading.Timer(connection.timeout or 60.0, self._stop)
        watch.daemon = True
        watch.start()
        try:
            return super().getresponse()  # type: ignore[misc,no-any-return]
        finally:
            watch.cancel()

    def _stop(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]


class _Http(_Deadline, http.client.HTTPConnection):
    pass


class _Https(_Deadline, http.client.HTTPSConnection):
    pass


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Http, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Https, req, context=_context())


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        # Python from python.org has no certificates on macOS; certifi comes with huggingface_hub's client.
        with contextlib.suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context
