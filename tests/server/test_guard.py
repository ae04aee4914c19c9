"""Who may ask, from where, and how much: one test for each rule."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from support.live_server import Live, Servers, echo_plan
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import UsageError
from edgellm.server import access
from edgellm.server.access import Access
from edgellm.server.activity import RequestTotals
from edgellm.server.intake import MAX_BODY_BYTES, Intake
from edgellm.server.middleware import Guard

ISOLATE = False  # a process for a model costs more than most of these tests, and changes none of their answers


BODY = {"messages": [{"role": "user", "content": "hello"}]}
KEY = "s3cret-key"


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture(scope="module")
def locked() -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patch:
        servers = Servers(patch)
        yield servers(api_key=KEY, isolate=False)
        servers.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_no_key(host: str) -> None:
    access.check_bind(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "myhost", "127.0.0.1.evil.example", ""])
def test_other_hosts_need_a_key(host: str) -> None:
    with refuses(UsageError, param="host"):
        access.check_bind(host, None)
    access.check_bind(host, KEY)


@pytest.mark.parametrize("key", [" ", "secret ", "sec ret", "secret\r", "geheím", ""])
def test_a_key_that_no_client_could_send_is_refused(key: str) -> None:
    with refuses(UsageError, param="api_key"):
        access.check_bind("127.0.0.1", key)


def test_the_key_is_asked_for(locked: Live) -> None:
    assert refusal(locked.chat("hello")) == (401, "invalid_api_key")
    assert locked.http.get("/v1/models").status_code == 401
    assert locked.http.get("/edgellm/plan").status_code == 401
    assert locked.http.get("/v1/models").headers["www-authenticate"] == "Bearer"


def test_the_key_is_asked_for_before_the_type_of_the_body(locked: Live) -> None:
    def sent(**headers: str) -> tuple[int, str]:
        headers |= {"content-type": "application/x-www-form-urlencoded"}
        return refusal(locked.http.post("/v1/chat/completions", content=b"{}", headers=headers))

    assert sent() == (401, "invalid_api_key")
    assert sent(authorization=f"Bearer {KEY}") == (415, "wrong_content_type")
    assert sent(origin="http://evil.example") == (403, "wrong_origin")


def test_the_header_for_the_key_is_that_of_the_dialect(locked: Live) -> None:
    def hint(path: str, **headers: str) -> str:
        return str(locked.http.get(path, headers=headers).json()["error"]["message"])

    assert "x-api-key" in hint("/v1/messages")
    assert "x-api-key" in hint("/v1/models", **{"anthropic-version": "2023-06-01"})
    assert "Bearer" in hint("/v1/models")


def test_compression_is_spoken_of_where_it_is_the_reason(live: Live) -> None:
    def told(**headers: str) -> str:
        answer = live.http.post("/v1/chat/completions", content=b"{}", headers=headers)
        assert refusal(answer) == (415, "wrong_content_type")
        return str(answer.json()["error"]["message"])

    assert "compressed" not in told(**{"content-type": "application/x-www-form-urlencoded"})
    assert "compressed" in told(**{"content-type": "application/json", "content-encoding": "gzip"})


def test_the_key_may_come_as_anthropics_clients_send_it(locked: Live) -> None:
    assert locked.post("/v1/chat/completions", BODY, headers={"x-api-key": KEY}).status_code == 200
    assert refusal(locked.post("/v1/chat/completions", BODY, headers={"x-api-key": KEY[:-1]}))[0] == 401


def test_a_body_without_a_type_is_only_read_from_a_program_below_api(live: Live) -> None:
    def status(path: str, **headers: str) -> int:
        return live.http.post(path, content=b"{}", headers={**headers}).status_code

    assert status("/v1/chat/completions") == 415
    assert status("/api/nothing") == 404
    assert status("/api/nothing", **{"sec-fetch-site": "cross-site"}) == 415
    assert status("/api/nothing", **{"content-type": "text/plain"}) == 415


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}x", "Bearer", f"Basic {KEY}", KEY, f"Bearer x{KEY}", ""])
def test_a_wrong_key_is_refused(locked: Live, authorization: str) -> None:
    assert refusal(locked.post("/v1/chat/completions", BODY, headers={"authorization": authorization}))[0] == 401


def test_the_right_key_opens(locked: Live) -> None:
    assert locked.post("/v1/chat/completions", BODY, headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert locked.post("/v1/chat/completions", BODY, headers={"authorization": f"bearer {KEY}"}).status_code == 200


def test_keys_are_compared_in_constant_time(locked: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = access.hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    locked.http.get("/v1/models", headers={"authorization": "Bearer guess"})

    assert compared == [b"guess"]


def test_health_and_the_page_need_no_key(locked: Live) -> None:
    for path in ("/health", "/", "/docs", "/openapi.json", "/web/page/app.js"):
        assert locked.http.get(path).status_code == 200, path


@pytest.mark.parametrize("key", [KEY, None])
def test_health_tells_only_the_kind_of_a_reason(serve: Servers, key: str | None) -> None:
    live = serve(replace(echo_plan(), backend="nosuch"), wait=False, api_key=key, isolate=True)
    wait_until(lambda: live.llm.state == "failed")
    assert live.llm.outage is not None
    health = live.http.get("/health").json()
    assert health["status"] == "failed"
    assert health["reason"] == live.llm.outage.code


def test_paths_that_climb_need_the_key(locked: Live) -> None:
    for path in ("/web/../v1/models", "/docs/../edgellm/plan", "/web/%2e%2e/v1/models", "//v1/models"):
        raw = _raw(locked.url, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert b'"object"' not in raw
        assert b'"backend"' not in raw


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1@evil",
        "",
        "[",
        "evil.com@127.0.0.1",
        "user:pw@localhost",
        "127.0.0.1/evil.com",
        "127.0.0.1?evil.com",
        "127.0.0.1:80:80",
        "127.0.0.1:99999",
    ],
)
def test_a_foreign_host_is_refused(live: Live, host: str) -> None:
    raw = _raw(live.url, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")

    assert raw.startswith(b"HTTP/1.1 403")
    assert b"wrong_host" in raw


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:9", "[::1]", "[::1]:5", "LocalHost"])
def test_loopback_hosts_are_answered(live: Live, host: str) -> None:
    assert live.http.get("/v1/models", headers={"host": host}).status_code == 200


def test_the_bound_name_is_answered(serve: Servers) -> None:
    live = serve(host="127.0.0.2", isolate=False)
    assert live.http.get("/v1/models", headers={"host": "127.0.0.2:80"}).status_code == 200


def test_the_host_is_not_repeated_in_a_redirect(locked: Live) -> None:
    headers = {"host": "evil.example", "authorization": f"Bearer {KEY}"}
    answer = locked.http.get("/health/", headers=headers, follow_redirects=False)

    assert refusal(answer) == (404, "unknown_path")


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/v1/models"])
def test_monitors_may_ask_for_the_head_alone(live: Live, path: str) -> None:
    answer = live.http.head(path)

    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ("Transfer-Encoding: chunked\r\nContent-Length: 2", 400, "ambiguous"),
        ("Content-Length: 2\r\nContent-Type: text/plain", 400, "ambiguous"),
        ("Content-Length: 2\r\nOrigin: http://127.0.0.1\r\nOrigin: http://evil.example", 400, "ambiguous"),
        ("Content-Length: 2\r\nContent-Encoding: gzip", 415, "wrong_content_type"),
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(live: Live, sent: str, status: int, code: str) -> None:
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    raw = _raw(live.url, f"{head}Connection: close\r\n{sent}\r\n\r\n{{}}", to_end=True)

    assert raw.startswith(f"HTTP/1.1 {status}".encode())
    assert f'"{code}"'.encode() in raw


def test_a_connection_is_closed_where_the_end_of_a_request_is_not_sure(live: Live) -> None:
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    raw = _raw(live.url, f"{head}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", to_end=True)

    assert b"connection: close" in raw


@pytest.mark.parametrize(
    "request_", ["GET /health HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_only_versions_that_it_speaks_are_answered(live: Live, request_: str) -> None:
    raw = _raw(live.url, request_, to_end=True)

    assert b'"wrong_version"' in raw


@pytest.mark.parametrize(("expected", "status"), [("200-ok", 417), ("100-Continue", 200)])
def test_only_an_expectation_that_it_knows_is_met(live: Live, expected: str, status: int) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nExpect: {expected}\r\n\r\n"
    raw = _raw(live.url, head, to_end=True)

    assert f"HTTP/1.1 {status}".encode() in raw
    assert (b'"wrong_expectation"' in raw) == (status == 417)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "file://", "http://127.0.0.1:1"])
def test_pages_of_others_may_not_send(live: Live, origin: str) -> None:
    assert refusal(live.post("/v1/chat/completions", BODY, headers={"origin": origin})) == (403, "wrong_origin")


def test_its_own_page_may_send(live: Live) -> None:
    assert live.post("/v1/chat/completions", BODY, headers={"origin": live.url}).status_code == 200


def test_no_origin_is_reflected(live: Live) -> None:
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    for answer in (
        live.http.get("/v1/models", headers=headers),
        live.http.options("/v1/chat/completions", headers=headers),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("scheme", ["ftp", "chrome-extension"])
def test_pages_of_another_scheme_may_not_send(live: Live, scheme: str) -> None:
    origin = live.url.replace("http", scheme, 1)

    assert refusal(live.post("/v1/chat/completions", BODY, headers={"origin": origin})) == (403, "wrong_origin")


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-16", "text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"],
)
def test_forms_of_other_pages_do_not_pass(live: Live, content_type: str) -> None:
    answer = live.http.post("/v1/chat/completions", content=b"{}", headers={"content-type": content_type})
    assert refusal(answer) == (415, "wrong_content_type")


def test_what_has_no_body_needs_no_type(live: Live) -> None:
    """OpenAI's client for Node deletes so. A page of somebody else still names itself."""
    without = live.http.build_request("DELETE", "/v1/responses/resp_1")
    of_a_page = live.http.build_request("DELETE", "/v1/responses/resp_1", headers={"origin": "http://evil.example"})
    empty = live.http.build_request("POST", "/v1/chat/completions", headers={"content-length": "0"})

    assert "content-type" not in without.headers
    assert live.http.send(without).status_code == 404
    assert refusal(live.http.send(of_a_page)) == (403, "wrong_origin")
    assert live.http.send(empty).status_code == 400


def test_json_with_a_charset_passes(live: Live) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert live.post("/v1/chat/completions", BODY, headers=headers).status_code == 200


def test_a_body_that_says_it_is_too_large_is_refused(serve: Servers) -> None:
    small = serve(intake=Intake(max_body=1000), isolate=False)

    assert refusal(small.chat("x" * 2000)) == (413, "body_too_large")
    assert small.chat("x").status_code == 200


def test_a_body_without_a_length_is_cut_at_the_limit(serve: Servers) -> None:
    small = serve(intake=Intake(max_body=1000), isolate=False)
    answer = small.http.post(
        "/v1/chat/completions", content=iter([b"x" * 600, b"x" * 600]), headers={"content-type": "application/json"}
    )
    assert refusal(answer) == (413, "body_too_large")


def test_ten_mebibytes_are_the_limit(live: Live) -> None:
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
    assert _raw(live.url, head).startswith(b"HTTP/1.1 413")


def test_headers_without_end_are_cut_off(live: Live) -> None:
    host, _, port = live.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
            while sent < 50 * 1024**2:
                sent += connection.send(b"x" * 65536)
    assert sent < 50 * 1024**2
    assert live.http.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/web/page/app.js", "/v1/models", "/nowhere"])
def test_answers_cannot_be_framed_sniffed_or_scripted(live: Live, path: str) -> None:
    headers = live.http.get(path).headers
    policy = headers["content-security-policy"]

    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert ("unsafe-inline" in policy) == (path == "/docs")
    assert headers["x-content-type-options"] == "nosniff"


def _raw(url: str, request: str, *, to_end: bool = False) -> bytes:
    """The answer to a request as it stands: a client would tidy it up. `to_end`: until the server closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(request.encode())
        received = b""
        while part := connection.recv(65536):
            received += part
            if not to_end and b"\r\n\r\n" in received and b"Content-Length" in request.encode():
                break
    return received


@pytest.mark.parametrize(
    ("host", "status"), [("chat.example.org", 200), ("chat.example.org:8443", 403), ("127.0.0.1:8642", 403)]
)
def test_behind_a_proxy_the_page_is_recognized_by_the_host_of_the_request(locked: Live, host: str, status: int) -> None:
    """A proxy that writes its own Host makes the page a foreign one (docs/http.md says what to set)."""
    headers = {"authorization": f"Bearer {KEY}", "host": host, "origin": "https://chat.example.org"}
    answer = locked.post("/v1/chat/completions", BODY, headers=headers)

    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "wrong_origin"


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
def test_methods_that_change_nothing_need_no_media_type(live: Live, method: str) -> None:
    assert live.http.request(method, "/v1/models").status_code == 405


async def test_a_request_goes_on_beside_hundreds_of_another_client() -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        ended.append(scope["client"][0])

    async def unused() -> Message:
        raise AssertionError

    guard = Guard(app, intake=Intake(), access=Access(Intake()), totals=RequestTotals())
    scope = {
        "type": "http", "method": "GET", "path": "/health", "raw_path": b"/health",
        "headers": [(b"host", b"127.0.0.1")], "http_version": "1.1", "server": ("127.0.0.1", 1),
    }  # fmt: skip
    await asyncio.gather(
        *(guard({**scope, "client": (client, 2)}, unused, unused) for client in (*["127.0.0.3"] * 300, "127.0.0.4"))
    )

    assert len(ended) == 301
    assert ended.index("127.0.0.4") < 10
