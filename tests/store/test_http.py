"""One request: through the proxy that the system names, silent about signatures, in pieces of the size asked for."""

from __future__ import annotations

import logging
import socket
import sys
import time
from pathlib import Path

import pytest
from support.refusals import refuses
from support.store_server import HubServer

from edgellm.errors import SourceUnreachable
from edgellm.store import http


class Proxy(HubServer):
    """Answers every address that it is asked for with that address."""

    def answer(self, request, *, body):
        self.asked[request.path] += 1
        return request.send(200, request.path.encode())


@pytest.fixture
def proxy(monkeypatch):
    server = Proxy()
    for name in ("ALL_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "https_proxy", "http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDGELLM_ALLOW_HTTP", "1")
    monkeypatch.setattr(http, "BACKOFF_S", 0.01)
    yield server
    server.close()


class Dripping(HubServer):
    """Sends a few bytes now and then."""

    def answer(self, request, *, body):
        self.drip(request, b"x" * 100, 30.0)


def test_a_body_that_comes_byte_by_byte_is_given_up(monkeypatch):
    monkeypatch.setattr(http, "SLOW_S", 0.1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Dripping()
    try:
        with (
            http.get(f"{server.url}/x.gguf") as answer,
            refuses(SourceUnreachable, varies=r"sent \d+ bytes in \d+ s"),
        ):
            while answer.read(100):
                continue
    finally:
        server.close()
    assert server.asked["pieces"] < 50


def test_a_whole_body_that_is_not_there_in_time_is_given_up(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Dripping()
    try:
        with (
            http.request("GET", f"{server.url}/x", {}, timeout_s=5.0) as answer,
            refuses(SourceUnreachable, varies=r"within \d+ s"),
        ):
            list(answer.whole(0.3))
    finally:
        server.close()
    assert server.asked["pieces"] < 50


class SlowHeaders(HubServer):
    def answer(self, request, *, body):
        self.drip_headers(request)


@pytest.mark.parametrize("lookup_s", [0.0, 0.6], ids=["", "after a slow lookup of the name"])
def test_headers_that_come_byte_by_byte_are_given_up(monkeypatch, lookup_s):
    lookup = socket.getaddrinfo

    def slow_lookup(*asked, **more):
        time.sleep(lookup_s)
        return lookup(*asked, **more)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", slow_lookup)
    server = SlowHeaders()
    try:
        with refuses(SourceUnreachable, varies="timed out"):
            http.request("HEAD", f"{server.url}/x", {}, timeout_s=0.3)
    finally:
        server.close()
    assert server.asked["header bytes"] < 600


@pytest.mark.parametrize(
    ("variable", "scheme"), [("HTTP_PROXY", "http://"), ("all_proxy", "http://"), ("HTTP_PROXY", "")]
)
def test_a_proxy_is_asked_instead(proxy, monkeypatch, variable, scheme):
    monkeypatch.setenv(variable, scheme + proxy.url.removeprefix("http://"))
    with http.get("http://192.0.2.1/x.gguf") as answer:
        assert answer.read(100) == b"http://192.0.2.1/x.gguf"


def test_a_host_that_no_proxy_names_is_asked_itself(proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.get(f"{proxy.url}/x.gguf") as answer:
        assert answer.read(100) == b"/x.gguf"


@pytest.mark.parametrize("address", ["socks9://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:99999"])
def test_a_proxy_that_cannot_be_used_is_an_error_with_a_hint(proxy, monkeypatch, address):
    monkeypatch.setenv("HTTP_PROXY", address)
    with refuses(SourceUnreachable, varies="(?<=:N: ).*") as caught:
        http.get("http://192.0.2.1/x.gguf")
    assert caught.value.hint


def test_a_signature_in_an_address_is_not_logged(proxy, caplog):
    caplog.set_level(logging.INFO)
    http.get(f"{proxy.url}/x.gguf?X-Signature=s3cret").close()
    assert proxy.asked == {"/x.gguf?X-Signature=s3cret": 1}
    assert "s3cret" not in caplog.text


def test_a_signature_reaches_the_server_as_it_was_written(proxy):
    written = "/a%2Fb/%7e.gguf?sig=a%2Bb%2fc+d&e=~!*'()"
    with http.get(proxy.url + written) as answer:
        assert answer.read(100) == written.encode()


def test_a_body_is_read_in_pieces_of_the_size_asked_for(proxy):
    with http.get(f"{proxy.url}/0123456789") as answer:
        assert [answer.read(4), answer.read(4), answer.read(9), answer.read(1)] == [b"/012", b"3456", b"789", b""]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep certificates elsewhere")
def test_without_certificates_of_the_system_those_of_certifi_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare container has an empty folder, or none; what is there is taken as it is."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert len(http._tls.__wrapped__().get_ca_certs()) > 50

    (tmp_path / "one.pem").write_text("")
    assert http._has_certificates()
