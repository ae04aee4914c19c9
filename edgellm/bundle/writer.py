"""Writing a bundle: each file is read once, hashed and copied; what is known only then is written to its beginning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from edgellm.bundle import layout
from edgellm.bundle import manifest as manifests
from edgellm.bundle.manifest import DIGEST, NAME, PIECE, SIGNATURE, FileEntry, Manifest, n_pieces
from edgellm.bundle.signature import sign
from edgellm.contract.source import Progress
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from minisign import SecretKey

_UNKNOWN = "0" * 64


@dataclass(frozen=True, slots=True)
class Content:
    """A file that a bundle shall hold: bytes, or the path of what is copied."""

    path: str
    n_bytes: int
    sha256: str
    data: bytes | Path
    executable: bool = False

    @classmethod
    def of(cls, path: str, data: bytes, *, executable: bool = False) -> Content:
        return cls(path, len(data), hashlib.sha256(data).hexdigest(), data, executable)

    @classmethod
    def of_file(cls, path: str, source: Path, sha256: str = "") -> Content:
        """`sha256`: as it is known already; "" = the file is read for it."""
        if not sha256:
            with open(source, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path, source.stat().st_size, sha256, source)

    @property
    def entry(self) -> FileEntry:
        """Its row of the manifest, with the hashes of its pieces left open."""
        pieces = (_UNKNOWN,) * n_pieces(self.n_bytes)
        return FileEntry(
            path=self.path, bytes=self.n_bytes, sha256=self.sha256, executable=self.executable, pieces=pieces
        )


def write(
    file: BinaryIO, about: Manifest, contents: Sequence[Content], key: SecretKey | None, progress: Progress
) -> Manifest:
    """Write a bundle of `contents` to an empty file; `about` is its manifest without files. Returns the whole one.

    Equal contents and keys make equal bytes.

    Raises:
        UsageError: a file has another hash or size by now, or a path cannot be in a bundle. OSError.
    """
    contents = sorted(contents, key=lambda content: content.path)
    draft = _checked(msgspec.structs.replace(about, files=tuple(content.entry for content in contents)))
    # The head is as long as it will be: hashes and signatures have fixed lengths.
    file.seek(len(_head(draft, key)))
    done, entries = 0, []
    for content in contents:
        file.write(layout.opening(file.tell(), content.path, content.n_bytes, executable=content.executable))
        pieces = []
        for piece, sha256 in _copied(content):
            file.write(piece)
            pieces.append(sha256)
            done += len(piece)
            progress(done, draft.bytes, "packing")
        file.write(layout.closing(content.n_bytes))
        entries.append(msgspec.structs.replace(content.entry, pieces=tuple(pieces) if len(pieces) > 1 else ()))
    file.write(layout.END)
    whole = msgspec.structs.replace(draft, files=tuple(entries))
    file.seek(0)
    file.write(_head(whole, key))
    return whole


def _checked(draft: Manifest) -> Manifest:
    """
    Raises:
        UsageError: what is to be written could not be read.
    """
    from edgellm.errors import BadArtifact

    content = manifests.encode(draft)
    try:
        manifests.decode(content)
        for entry in draft.files:
            layout.opening(0, entry.path, entry.bytes)
    except (BadArtifact, ValueError) as error:
        raise UsageError(f"this bundle cannot be made: {error}", hint="see docs/bundles.md for its limits") from None
    if len(content) > manifests.MAX_BYTES:
        message = f"this bundle's manifest would have {len(content)} bytes, at most {manifests.MAX_BYTES} are read"
        raise UsageError(message, hint="make two bundles of it")
    return draft


def _head(manifest: Manifest, key: SecretKey | None) -> bytes:
    content = manifests.encode(manifest)
    parts = [(NAME, content), (DIGEST, f"{hashlib.sha256(content).hexdigest()}  {NAME}\n".encode())]
    if key is not None:
        parts.append((SIGNATURE, sign(content, key, f"edgellm bundle {manifest.name} release {manifest.release}")))
    head = b""
    for path, data in parts:
        head += layout.opening(len(head), path, len(data)) + data + layout.closing(len(data))
    return head


def _copied(content: Content) -> Iterable[tuple[bytes, str]]:
    """Its pieces, each with its hash.

    Raises:
        UsageError: it changed since its hash was taken.
    """
    whole, n_bytes = hashlib.sha256(), 0
    for piece in _pieces(content.data):
        n_bytes += len(piece)
        if n_bytes > content.n_bytes:
            break
        whole.update(piece)
        yield piece, hashlib.sha256(piece).hexdigest()
    if n_bytes != content.n_bytes or whole.hexdigest() != content.sha256:
        message = f"{content.data if isinstance(content.data, Path) else content.path} changed while it was read"
        raise UsageError(message, hint="let nothing write to it, and make the bundle again")


def _pieces(data: bytes | Path) -> Iterable[bytes]:
    if isinstance(data, bytes):
        yield from (data[at : at + PIECE] for at in range(0, len(data), PIECE))
        return
    with open(data, "rb") as file:
        while piece := file.read(PIECE):
            yield piece
