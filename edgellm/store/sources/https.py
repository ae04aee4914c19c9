"""A file at an address of the web.

    https://HOST/PATH/FILE.gguf                    one part of a split file stands for all
    https://HOST/PATH/FILE.gguf#sha256=HASH        checked against that hash

Without a hash, what arrives is checked against the length and etag that the server states, and as a GGUF file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from edgellm import settings
from edgellm.contract.source import FetchedFile, Progress, RemoteFile
from edgellm.errors import EdgeLLMError, SourceError
from edgellm.files import safe_name
from edgellm.store import http
from edgellm.store.address import check_address, redacted
from edgellm.store.download import download_all
from edgellm.store.names import parts_of, stem_of
from edgellm.store.remote import FileHead


class Https:
    """Schemes `https` and `http`."""

    scheme = "https"
    resumes = True

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        """Requests the file's first bytes; without a URI there is no server to ask."""
        if settings.current().offline:
            return "EDGELLM_OFFLINE is set"
        if not uri:
            return ""
        try:
            file = self.resolve(uri)[0]
            http.get(file.url, {"Range": "bytes=0-63"}, timeout_s=timeout_s, tries=1).close()
        except EdgeLLMError as error:
            return error.message
        return ""

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        return [(folder, n_bytes)]

    def resolve(self, uri: str) -> list[RemoteFile]:
        """The file or its parts. Makes no request.

        Raises:
            SourceError: no address of a file.
        """
        address, _, fragment = uri.partition("#")
        check_address(address)
        digest = fragment.removeprefix("sha256=")
        if fragment and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise SourceError(f"{fragment[:80]!r} is not a hash", hint="write #sha256= and 64 hexadecimal digits")
        parts = urlsplit(address)
        folder, _, last = unquote(parts.path).rpartition("/")
        names = parts_of(last)
        if not last or (digest and len(names) > 1):
            raise SourceError(
                f"{redacted(address)} is not a file" if not last else "a hash is of one file, not of a split set",
                hint="write https://HOST/PATH/FILE.gguf",
            )
        return [
            RemoteFile(
                name=f"{safe_name(stem_of(name))}{_suffix(name)}",
                url=urlunsplit(parts._replace(path=quote(f"{folder}/{name}"))),
                sha256=digest.lower(),
            )
            for name in names
        ]

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        files = self.resolve(uri)
        described = []
        for file in files:
            with FileHead(file) as head:
                head.read(64)
                described.append(head.file)
        return download_all(described, folder, files[0].name, progress, n_bytes=n_bytes)

    def discard(self, paths: Sequence[Path]) -> None:
        """Nothing lies outside the folder."""


def _suffix(name: str) -> str:
    """With the number of a part, as native code expects it."""
    match = re.search(r"(-\d{5}-of-\d{5})?\.gguf$", name)
    return match[0] if match else ".gguf"
