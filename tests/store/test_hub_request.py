"""What a hub says of a file: through redirects of its own, up to the server with the bytes, and in time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.refusals import refuses
from support.store_server import Handler, HubServer, Server

from edgellm.errors import SourceError, SourceUnreachable
from edgellm.store.sources import hub_request
from edgellm.store.sources.hub_request import FileHeaders

COMMIT = "c" * 40
TOLD = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": '"ab"', "X-Linked-Size": "7", "ETag": '"other"'}


class Moved(Server):
    """Sends its requests on to `target`, and notes the tokens that came."""

    def __init__(self) -> None:
        super().__init__()
        self.target = ""
        self.tokens: list[str | None] = []
        self.is_slow = False

    def answer(self, request: Handler, *, body: bool) -> None:
        self.tokens.append(request.headers.get("Authorization"))
        if self.is_slow:
            self.drip_headers(request)
        elif request.path == self.target:
            request.send(200, b"", {"ETag": 'W/"cd"', "Content-Length": "9"}, with_body=False)
        else:
            request.send(307, b"", {**TOLD, "Location": self.target}, with_body=False)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moved]:
    from huggingface_hub import constants

    server = Moved()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 5)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.close()


def described(server: Moved) -> FileHeaders:
    return hub_request.describe(f"{server.url}/o/r/resolve/main/m.gguf", {"Authorization": "Bearer secret"})


def test_a_redirect_to_the_server_with_the_bytes_describes_the_file(moved: Moved) -> None:
    bytes_server = HubServer()
    moved.target = f"{bytes_server.url}/signed"

    assert described(moved) == FileHeaders("ab", COMMIT, 7)
    assert (moved.tokens, list(bytes_server.asked)) == (["Bearer secret"], [])
    bytes_server.close()


def test_a_repository_that_was_renamed_is_found_under_its_new_name(moved: Moved) -> None:
    moved.target = "/new/r/resolve/main/m.gguf"

    assert described(moved) == FileHeaders("cd", "", 9)
    assert moved.tokens == ["Bearer secret"] * 2


def test_a_hub_that_sends_on_without_end_is_refused(moved: Moved) -> None:
    moved.target = "?again"

    with refuses(SourceError):
        described(moved)


def test_headers_that_come_byte_by_byte_are_given_up(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    moved.is_slow = True

    with refuses(SourceUnreachable, varies="timed out"):
        described(moved)
    assert moved.asked["header bytes"] < 600
