"""A file on this disk, named by its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from edgellm.contract.source import FetchedFile, Progress
from edgellm.errors import UnknownModel
from edgellm.formats.gguf.reader import part_paths


class LocalFile:
    """`file:/path/to/model.gguf` (or `file:` and a relative path): used where it lies, never copied or deleted."""

    scheme = "file"

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        path = self.path_of(uri) if uri else None
        return f"{path} does not exist" if path is not None and not path.exists() else ""

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        return []

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        path = self.path_of(uri).absolute()
        if not path.is_file():
            raise UnknownModel(f"{path} is not a file", hint="check the path in the catalog row")
        return [FetchedFile(Path(part)) for part in part_paths(str(path))]

    def discard(self, paths: Sequence[Path]) -> None:
        return None

    @staticmethod
    def path_of(uri: str) -> Path:
        """The path that a `file:` URI names."""
        parsed = urlparse(uri)
        return Path(unquote(parsed.path))
