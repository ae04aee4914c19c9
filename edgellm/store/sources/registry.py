"""Where model files come from: one `Source` for each URI scheme, built in (`file hf https ollama pypi`) or added by a
plugin.

A source only moves bytes. Hashes, headers, disk space and the final name are the library's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import unquote, urlparse

from edgellm.contract.manager import plugins
from edgellm.errors import SourceError, UnknownModel

if TYPE_CHECKING:
    from edgellm.store.remote import RemoteFile

Progress = Callable[[int, int | None, str], None]  # (bytes so far, bytes in all or None, what is being done)


@dataclass(frozen=True, slots=True)
class Fetched:
    """One file that a source brought. `sha256` is what the source promises, "" where it promises nothing."""

    path: Path
    sha256: str = ""
    found_sha256: str = ""  # of the bytes that were written, where the source hashed them as they came


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

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[Fetched]:
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


class LocalFile:
    """`file:/path/to/model.gguf` (or `file:` and a relative path): used where it lies, never copied or deleted."""

    scheme = "file"

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        path = self.path_of(uri) if uri else None
        return f"{path} does not exist" if path is not None and not path.exists() else ""

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        return []

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[Fetched]:
        path = self.path_of(uri).absolute()
        if not path.is_file():
            raise UnknownModel(f"{path} is no file", hint="check the path in the catalog row")
        from edgellm.formats.gguf.reader import part_paths

        return [Fetched(Path(part)) for part in part_paths(str(path))]

    def discard(self, paths: Sequence[Path]) -> None:
        return None

    @staticmethod
    def path_of(uri: str) -> Path:
        """The path that a `file:` URI names."""
        parsed = urlparse(uri)
        return Path(unquote(parsed.path))


def scheme_of(uri: str) -> str:
    """`"pypi:pkg==1/x"` -> `"pypi"`; "" where there is none."""
    match = re.match(r"([a-z][a-z0-9+.-]{1,31}):", uri)
    return match[1] if match else ""


@cache
def sources() -> dict[str, Source]:
    """Scheme -> source. A plugin cannot replace a built-in scheme."""
    from edgellm.store.sources.https import Https
    from edgellm.store.sources.hub import Hub
    from edgellm.store.sources.ollama import Ollama
    from edgellm.store.sources.pypi import Pypi

    web = Https()
    found: dict[str, Source] = {
        "file": LocalFile(), "hf": Hub(), "http": web, "https": web, "ollama": Ollama(), "pypi": Pypi(),
    }  # fmt: skip

    def register(scheme: str, source: Source) -> None:
        missing = [name for name in ("reachable", "needs", "fetch", "discard") if not hasattr(source, name)]
        if missing:
            raise TypeError(f"{source!r} is no model source: it lacks {', '.join(missing)}")
        if scheme_of(scheme + ":") != scheme or scheme in found:
            raise ValueError(f"source scheme {scheme!r} is malformed or already taken")
        found[scheme] = source

    plugins().call("register_sources", register=register)
    return found


def source_for(uri: str) -> Source:
    """The source that serves `uri`.

    Raises:
        SourceError: no source has that scheme.
    """
    scheme = scheme_of(uri)
    source = sources().get(scheme)
    if source is None:
        raise SourceError(f"no source for {uri!r}", hint=f"schemes: {', '.join(sorted(sources()))}")
    return source


def unreachable(timeout_s: float = 5.0, examples: dict[str, str] | None = None) -> dict[str, str]:
    """Scheme -> reason for every source that does not answer, all asked at once.

    `examples` gives a URI to ask for by scheme, which makes the answer of a package index exact.
    """
    from concurrent.futures import ThreadPoolExecutor

    asked = sources()
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = {s: pool.submit(src.reachable, timeout_s, (examples or {}).get(s, "")) for s, src in asked.items()}
        reasons = {scheme: answer.result() for scheme, answer in answers.items()}
    return {scheme: reason for scheme, reason in sorted(reasons.items()) if reason}
