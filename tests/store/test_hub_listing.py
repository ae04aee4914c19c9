"""The list of a repository's files, of a hub that is honest and of one that is not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.refusals import refuses
from support.store_server import Handler, Server

from edgellm.errors import SourceError, SourceUnreachable
from edgellm.store.sources import hub_listing
from edgellm.store.sources.hub_listing import ListedFile, Listing

DIGEST = "ab" * 32


def entry(path: Any = "m.gguf", **changed: Any) -> dict[str, Any]:
    lfs = {"oid": DIGEST, "size": 3, "pointerSize": 100}
    return {"type": "file", "path": path, "size": 3, "oid": "0" * 40, "lfs": lfs, **changed}


class Pages(Server):
    """Answers with `pages`, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[Any] = []
        self.following = ""  # where the next one is said to be; "" = here
        self.is_endless = False
        self.moved_to = ""  # where the first page is said to be now; "" = here
        self.tokens: list[str | None] = []
        self.has_slow_headers = self.moves_on = False

    def answer(self, request: Handler, *, body: bool) -> None:
        number = len(self.tokens)
        self.tokens.append(request.headers.get("Authorization"))
        if self.has_slow_headers:
            return self.drip_headers(request)
        if self.moves_on:
            self.closing.wait(0.02)
            with contextlib.suppress(OSError):  # the client left
                request.send(307, b"", {"Location": request.path})
            return None
        if self.moved_to and not number:
            return request.send(307, b"", {"Location": self.moved_to})
        page = self.pages[min(number, len(self.pages) - 1)]
        content = page if isinstance(page, bytes) else json.dumps(page).encode()
        link = {"Link": f'<{self.following or self.url + "/api/next"}>; rel="next"'}
        return request.send(200, content, link if self.is_endless or number + 1 < len(self.pages) else {})


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    from huggingface_hub import constants

    server = Pages()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.close()


def listed() -> list[ListedFile]:
    return Listing("o/r", "", {"Authorization": "Bearer secret"}).files()


def test_pages_are_read_to_the_last(pages: Pages) -> None:
    pages.pages = [[entry("a.gguf"), entry("sub", type="directory", size=0)], [entry("b.json", lfs=None)], []]

    assert [(file.path, file.size, file.sha256) for file in listed()] == [("a.gguf", 3, DIGEST), ("b.json", 3, "")]
    assert pages.tokens == ["Bearer secret"] * 3


def test_names_that_lead_out_of_a_folder_are_left_out(pages: Pages) -> None:
    pages.pages = [[entry(path) for path in ("../m.gguf", "a/../../m.gguf", "/m.gguf", "m\x1b[31m.gguf", "m\0.gguf")]]

    assert listed() == []


def test_a_hash_that_is_none_counts_for_nothing(pages: Pages) -> None:
    pages.pages = [[entry(lfs={"oid": "../../m"})]]

    assert [file.sha256 for file in listed()] == [""]


@pytest.mark.parametrize(
    "page",
    [
        {}, None, 1, "m.gguf", [1], [None], [{}], [entry(1)], [entry(size="3")], [entry(size=-1)], [entry(size=2**70)],
        [entry(size=1.5)], [entry(lfs=1)], [entry(lfs={"oid": None})], [entry("x" * 2000)], [entry("\ud800.gguf")],
        b"[", b"", b"\xff", b"[" * 100_000,
    ],
    ids=lambda page: repr(page)[:40],
)  # fmt: skip
def test_what_is_no_list_of_files_is_refused(pages: Pages, page: Any) -> None:
    pages.pages = [page]

    with refuses(SourceError):
        listed()


def test_a_list_with_a_name_twice_is_refused(pages: Pages) -> None:
    pages.pages = [[entry("a.gguf"), entry("a", type="directory"), entry("a", type="directory")], [entry("a.gguf")]]

    with refuses(SourceError):
        listed()


def test_a_list_without_end_is_refused(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_listing, "MAX_PAGES", 3)
    pages.pages, pages.is_endless = [[]], True

    with refuses(SourceError):
        listed()
    assert len(pages.tokens) == 3


def test_a_list_that_is_too_long_is_refused(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_listing, "MAX_BYTES", 1000)
    pages.pages = [b"[]" + b" " * 600, b"[]" + b" " * 600]

    with refuses(SourceError):
        listed()


def test_a_list_that_comes_too_slowly_is_given_up(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_listing, "PATIENCE_S", 0.0)
    pages.pages = [[entry()]]

    with refuses(SourceUnreachable):
        listed()


def test_a_list_that_moves_on_without_end_is_given_up(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_listing, "PATIENCE_S", 1.0)
    pages.moves_on = True

    with pytest.raises(SourceUnreachable):  # by the whole list's time, or within a request
        listed()


def test_headers_that_come_byte_by_byte_are_given_up(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_listing, "PATIENCE_S", 0.5)
    pages.has_slow_headers = True

    with refuses(SourceUnreachable, varies="timed out"):
        listed()
    assert pages.asked["header bytes"] < 600


@pytest.mark.parametrize("following", ["http://127.0.0.1:1/next", "https://127.0.0.2/next", "file:///etc/passwd"])
def test_no_other_server_is_asked_for_the_rest(pages: Pages, following: str) -> None:
    pages.pages, pages.following = [[], []], following

    with refuses(SourceError):
        listed()
    assert len(pages.tokens) == 1


def test_a_repository_that_was_renamed_is_found_under_its_new_name(pages: Pages) -> None:
    pages.pages, pages.moved_to = [[], [entry()]], "/api/models/new/r/tree/main"

    assert [file.path for file in listed()] == ["m.gguf"]
    assert pages.tokens == ["Bearer secret"] * 2


def test_no_other_server_is_asked_in_its_place(pages: Pages) -> None:
    other = Pages()
    other.pages = [[entry()]]
    pages.pages, pages.moved_to = [[]], other.url

    with refuses(SourceError):
        listed()
    assert (len(pages.tokens), other.tokens) == (1, [])
    other.close()
