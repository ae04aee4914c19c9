"""Asks a source, and checks what it brings: a mistake of a plugin is its own, and none of the store's.

An `OSError` is the store's only where the disk is full or the path lies in the store.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from edgellm.contract.answers import Fault, asked, hint_for, threads_noted
from edgellm.contract.failure import tidied
from edgellm.contract.slow import told_where_slow
from edgellm.contract.source import FetchedFile, Lister, Progress, RemoteFile, Resolver, Source, checked_progress
from edgellm.errors import SourceError, SourceUnreachable
from edgellm.files import FULL

T = TypeVar("T")


def reachable(source: Source, timeout_s: float, uri: str = "") -> str:
    """Why it does not answer, "" where it does; that it fails is a reason."""
    try:
        ask = partial(source.reachable, timeout_s, uri)
        with told_where_slow(f"{_named(source)}: reachable()"):
            return _asked(source, "reachable()", ask, lambda why: isinstance(why, str), "a text", text=tidied)
    except Fault as fault:
        return str(fault)


def needs(source: Source, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
    """
    Raises:
        SourceError: the source is at fault.
    """
    try:
        return _asked(
            source,
            "needs()",
            lambda: source.needs(folder, n_bytes),
            lambda places: all(isinstance(where, Path) and isinstance(size, int) for where, size in places),
            "a list of pairs of a folder and bytes",
        )
    except Fault as fault:
        raise _error(source, fault) from fault


def fetch(source: Source, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> Sequence[FetchedFile]:
    """
    Raises:
        SourceError: the source is at fault. OSError: the store's disk is. Others: as `Source.fetch`.
    """
    try:
        return _asked(
            source,
            "fetch()",
            lambda: source.fetch(uri, folder, n_bytes=n_bytes, progress=checked_progress(progress)),
            lambda brought: len(brought) > 0 and all(isinstance(f, FetchedFile) and f.path.is_file() for f in brought),
            "a list of FetchedFile that are there",
        )
    except Fault as fault:
        if isinstance(fault.__cause__, OSError) and _is_of_store(fault.__cause__, folder):
            raise fault.__cause__ from None
        raise _error(source, fault) from fault


def resolve(source: Resolver, uri: str) -> list[RemoteFile]:
    """
    Raises:
        SourceError: the source is at fault. Others: as `Resolver.resolve`.
    """
    try:
        return _asked(source, "resolve()", lambda: source.resolve(uri), _are_remote, _REMOTE)
    except Fault as fault:
        raise _error(source, fault) from fault


def variants(source: Lister, uri: str) -> list[list[RemoteFile]]:
    """
    Raises:
        SourceError: the source is at fault. Others: as `Lister.variants`.
    """
    try:
        return _asked(
            source,
            "variants()",
            lambda: source.variants(uri),
            lambda groups: all(map(_are_remote, groups)),
            "a list of lists of RemoteFile, each with a file name and a url or path,",
        )
    except Fault as fault:
        raise _error(source, fault) from fault


def discard(source: Source, paths: Sequence[Path]) -> None:
    """What made them wrong is being told: a failure of this would only hide it."""
    with contextlib.suppress(Fault):
        _asked(source, "discard()", lambda: source.discard(paths), lambda _: True, "nothing")


_REMOTE = "a list of RemoteFile, each with a file name and a url or path,"


def _are_remote(files: Sequence[RemoteFile]) -> bool:
    return len(files) > 0 and all(isinstance(file, RemoteFile) and _can_be_had(file) for file in files)


def _can_be_had(file: RemoteFile) -> bool:
    """Of a file in a folder of its source the name has that, too."""
    parts = file.name.replace("\\", "/").split("/")
    return bool(file.url or file.path) and not {"", ".", ".."} & {*parts}


def _is_of_store(error: OSError, folder: Path) -> bool:
    names = (error.filename, error.filename2)
    paths = [Path(os.fsdecode(name)) for name in names if isinstance(name, (str, bytes, os.PathLike))]
    return error.errno in (*FULL, errno.EFBIG) or any(path.is_relative_to(folder) for path in paths)


def _asked(
    source: object,
    what: str,
    ask: Callable[[], T],
    fits: Callable[[T], bool],
    expected: str,
    *,
    text: Callable[[str], str] = str.__str__,
) -> T:
    with threads_noted(getattr(source, "scheme", ""), "register_sources"):
        return asked(what, ask, fits, expected, text)


def _error(source: object, fault: Fault) -> SourceError:
    """That the network failed is no mistake of the plugin's author."""
    what = f"{_named(source)}: {fault}"
    if _is_of_network(fault.__cause__):
        return SourceUnreachable(what, hint="try again when its source answers")
    return SourceError(what, hint=hint_for(getattr(source, "scheme", ""), "register_sources"))


def _named(source: object) -> str:
    return f"source {getattr(source, 'scheme', '')}"


def _is_of_network(error: BaseException | None) -> bool:
    """Whether nobody answered, or said to come later: an answer that refuses, a certificate and an address that nothing
    understands are none of the network's."""
    import socket
    import ssl
    from urllib.error import HTTPError, URLError

    if isinstance(error, HTTPError):
        return error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code == HTTPStatus.TOO_MANY_REQUESTS
    if isinstance(error, URLError):
        return isinstance(error.reason, BaseException) and _is_of_network(error.reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
