"""A source that fails, or brings something else than files, is at fault itself; the store's disk is told as before."""

from __future__ import annotations

import errno
import os
import shutil
import ssl
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
from support.refusals import refuses
from support.store_server import card_of

from edgellm.contract.source import FetchedFile, RemoteFile
from edgellm.errors import DiskFull, EdgeLLMError, IntegrityError, SourceError, SourceUnreachable, StoreUnwritable
from edgellm.store.library import Library
from edgellm.store.sources import asking
from edgellm.store.sources.registry import sources, unreachable
from edgellm.types.model import ModelFile


class Shelf:
    """A source of a plugin, made of one function."""

    scheme = "shelf"

    def __init__(self, fetch: Callable[[Path], Any]) -> None:
        self._fetch = fetch

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        raise OSError("no shelf here")

    def needs(self, folder: Path, n_bytes: int) -> Any:
        return [folder]

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Any) -> Any:
        return self._fetch(folder) if folder.name != "reports" else progress("x", None, 3)

    def resolve(self, uri: str) -> Any:
        return RemoteFile("x.gguf")

    def variants(self, uri: str) -> Any:
        return [RemoteFile("x.gguf")]

    def names_several(self, uri: str) -> bool:
        return False

    def discard(self, paths: Any) -> None: ...


def copies_what_is_not_there(folder: Path) -> None:
    shutil.copyfile("/nowhere/nope.gguf", folder / "nope.gguf")


def writes_where_it_must_not(folder: Path) -> None:
    (folder / "sub" / "x.gguf").write_bytes(b"")  # there is no such folder


def fails(error: Exception) -> Callable[[Path], None]:
    def fetch(folder: Path) -> None:
        raise error

    return fetch


def fetched(sha256: Any) -> FetchedFile:
    return FetchedFile(Path("x.gguf"), sha256)


def _answer(status: int) -> HTTPError:
    return HTTPError("http://shelf.example/x", status, "as the server says", Message(), None)


@pytest.mark.parametrize(
    ("fetch", "kind"),
    [
        pytest.param(copies_what_is_not_there, SourceError, id="missing"),
        pytest.param(fails(ConnectionResetError(errno.ECONNRESET, "reset")), SourceUnreachable, id="network"),
        pytest.param(fails(_answer(503)), SourceUnreachable, id="overloaded"),
        pytest.param(fails(URLError(OSError(errno.ENETUNREACH, "no route"))), SourceUnreachable, id="no route"),
        pytest.param(fails(_answer(404)), SourceError, id="not found"),
        pytest.param(fails(_answer(401)), SourceError, id="not allowed"),
        pytest.param(fails(URLError(ssl.SSLCertVerificationError(1, "expired"))), SourceError, id="certificate"),
        pytest.param(fails(URLError("unknown url type: shelf")), SourceError, id="unknown kind"),
        pytest.param(fails(KeyError("x")), SourceError, id="bug"),
        pytest.param(lambda folder: folder / "x.gguf", SourceError, id="path"),
        pytest.param(lambda folder: [folder / "x.gguf"], SourceError, id="paths"),
        pytest.param(lambda folder: None, SourceError, id="none"),
        pytest.param(lambda folder: [], SourceError, id="nothing"),
        pytest.param(lambda folder: [fetched(None)], SourceError, id="no hash"),
        pytest.param(fails(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), DiskFull, id="full"),
        pytest.param(writes_where_it_must_not, StoreUnwritable, id="store"),
        pytest.param(fails(IntegrityError("not what was promised")), IntegrityError, id="ours"),
    ],
)
def test_a_fetch_that_fails_is_told_as_whose_fault_it_is(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, fetch: Callable[[Path], Any], kind: type[EdgeLLMError]
) -> None:
    monkeypatch.setitem(sources(), "shelf", Shelf(fetch))
    file = ModelFile(source="shelf:x", quant="Q8_0")

    with refuses(kind, varies=r"\.?Q8_0-\w+(\.\w+\.incomplete)?|line \d+"):
        Library().fetch(card_of(file), file)


def test_the_other_answers_of_a_source_are_checked_too(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(lambda folder: [])
    monkeypatch.setitem(sources(), "shelf", shelf)

    with refuses(SourceError, varies=r"line \d+"):
        asking.fetch(shelf, "shelf:x", own_home / "reports", n_bytes=None, progress=lambda *_: None)
    with refuses(SourceError):
        asking.needs(shelf, own_home, 1)
    with refuses(SourceError):
        asking.resolve(shelf, "shelf:x")
    with refuses(SourceError):
        asking.variants(shelf, "shelf:x")
    for file in (RemoteFile("x.gguf"), RemoteFile("../../x.gguf", "https://example.com/x.gguf")):
        monkeypatch.setattr(shelf, "resolve", lambda uri, file=file: [file])
        with refuses(SourceError):
            asking.resolve(shelf, "shelf:x")
    assert unreachable(examples={"shelf": "shelf:x"})["shelf"].startswith("reachable() failed: OSError: no shelf here")
