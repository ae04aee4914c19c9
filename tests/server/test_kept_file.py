"""Files of the page come from memory."""

from __future__ import annotations

import socket

import psutil
from support.live_server import Live, Servers
from support.waiting import wait_until

from edgellm.server.app import WEB

SCRIPT = "/web/swagger-ui/swagger-ui-bundle.js"


def test_a_client_that_takes_nothing_holds_no_file_open(serve: Servers) -> None:
    live = serve()
    with live.connection() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(f"GET {SCRIPT} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() * 20)
        wait_until(lambda: any(member.untaken_bytes for member in list(live.server.server_state.connections)))
        opened = [file.path for file in psutil.Process().open_files()]

    assert [path for path in opened if path.startswith(str(WEB))] == []


def test_it_is_the_file(live: Live) -> None:
    answer = live.http.get(SCRIPT)
    head = live.http.head(SCRIPT)

    assert answer.content == (WEB / "swagger-ui/swagger-ui-bundle.js").read_bytes()
    assert answer.headers["content-length"] == str(len(answer.content)) == head.headers["content-length"]
    assert answer.headers["content-type"].startswith("text/javascript")
    assert head.content == b""


def test_a_client_that_has_it_is_told_so(live: Live) -> None:
    tag = live.http.get(SCRIPT).headers["etag"]
    assert live.http.get(SCRIPT, headers={"if-none-match": tag}).status_code == 304
