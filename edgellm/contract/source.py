"""Contract: where model files come from, one `Source` for each URI scheme (`hookspecs.register_sources`).

A source only moves bytes. Hashes, headers, disk space and the final name are the store's business. A model file is, one
after the other, a `ModelFile` (what the catalog promises), `RemoteFile`s (what the source says of it now),
`FetchedFile`s (what arrived) and `StoredFile`s (what the store's record keeps).
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Progress = Callable[[int, int | None, str], None]  # (bytes so far, bytes in all or None, what is being done)


def checked_progress(progress: Progress) -> Progress:
    """`progress` for a plugin: it says what it takes where it is given something else.

    Raises:
        TypeError: in the line that called it so.
    """

    def report(*given: object) -> None:
        kinds: tuple[Any, ...] = (Real, (Real, type(None)), str)
        if len(given) != len(kinds) or not all(isinstance(one, kind) for one, kind in zip(given, kinds, strict=True)):
            takes = "bytes so far, bytes in all or None, and a text that says what is being done"
            raise TypeError(f"progress takes {takes}; it was given ({', '.join(map(reprlib.repr, given))})")
        progress(*given)  # type: ignore[arg-type]

    return report


_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{1,31}):")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a model as its source describes it. `bytes` and `etag` are None and "" until a server was asked."""

    name: str  # to store it under: a plain file name
    url: str = field(default="", repr=False)  # may hold a signature
    bytes: int | None = None
    sha256: str = ""  # "" = its source states none
    etag: str = ""  # changes when the file does
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a token
    hint: str = ""  # what to do where access is refused
    path: Path | None = None  # where it lies on this disk already


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file that a source brought. `sha256` is what the source promises, "" where it promises nothing."""

    path: Path
    sha256: str = ""
    written_sha256: str = ""  # of the bytes that were written, where the source hashed them as they came


class Source(Protocol):
    """What a plugin registers with `register_sources`. Importing and making one must be cheap.

    Where it has `resumes = True`, what it left in the folder is there at the next try, of any process.
    """

    @property
    def scheme(self) -> str: ...

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        """Why it does not answer; "" where it does. `uri` is what will be asked for.

        Returns within `timeout_s` of asking; loading the client that asks is not counted.
        """
        ...

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        """Free bytes that fetching `n_bytes` into `folder` takes, by the folder they are taken in."""
        ...

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        """Bring the file, or all parts of a split one in order, into `folder` (empty, on the store's disk).

        A source that has a cache of its own returns the path in there instead. `n_bytes` is the size the catalog
        promises: stop when more arrives.

        Raises:
            SourceUnreachable, IntegrityError, DiskFull, SourceError, UnknownModel.
        """
        ...

    def discard(self, paths: Sequence[Path]) -> None:
        """Forget files outside `folder` that turned out to be wrong. A user's own files are never deleted."""
        ...


@runtime_checkable
class Resolver(Protocol):
    """Optional: a source that can describe its files, so that their headers are read before anything is fetched."""

    def resolve(self, uri: str) -> list[RemoteFile]:
        """The file, or all parts of a split one in order.

        Raises:
            SourceUnreachable, SourceError, UnknownModel.
        """
        ...


@runtime_checkable
class Lister(Protocol):
    """Optional: a source with URIs that name several quantizations of a model, to choose from."""

    def names_several(self, uri: str) -> bool:
        """Whether `uri` names neither a file nor a quantization. Makes no request."""
        ...

    def variants(self, uri: str) -> list[list[RemoteFile]]:
        """The files of each quantization, all parts in order.

        Raises:
            SourceUnreachable, SourceError, UnknownModel.
        """
        ...


def scheme_of(uri: str) -> str:
    """`"pypi:pkg==1/x"` -> `"pypi"`; "" where there is none."""
    match = _SCHEME.match(uri)
    return match[1] if match else ""
