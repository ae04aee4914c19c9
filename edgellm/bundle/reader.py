"""Reading a bundle that anybody may have made: once, from its beginning to its end, with a MiB of it in memory.

Nothing of it is believed before its hash was right, and what its manifest does not say is refused, padding included.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgellm.bundle import layout, signature
from edgellm.bundle import manifest as manifests
from edgellm.bundle.manifest import DIGEST, NAME, PIECE, SIGNATURE, FileEntry, Manifest, damaged
from edgellm.errors import ExpiredBundle, UntrustedBundle, UsageError
from edgellm.files import open_named

if TYPE_CHECKING:
    from minisign import PublicKey


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle whose manifest was read, and whose files were not yet."""

    path: Path
    manifest: Manifest
    content: bytes  # of the manifest, as it is signed
    signature: bytes  # b"" = it has none
    file: BinaryIO

    @property
    def sha256(self) -> str:
        """Of the manifest: what the bundle is known by."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def digest(self) -> bytes:
        """The file that `sha256sum -c` takes."""
        return f"{self.sha256}  {NAME}\n".encode()

    @property
    def n_bytes(self) -> int:
        """Of the whole file, as the manifest leads to."""
        sizes = [(NAME, len(self.content)), (DIGEST, len(self.digest))]
        sizes += [(SIGNATURE, len(self.signature))] if self.signature else []
        sizes += [(file.path, file.bytes) for file in self.manifest.files]
        n_bytes = 0
        for path, size in sizes:
            n_bytes += len(layout.opening(n_bytes, path, size)) + size + len(layout.closing(size))
        return n_bytes + len(layout.END)

    def require_date(self, today: str = "") -> None:
        """
        Raises:
            ExpiredBundle: it was not to be used any more from a day on that has come.
        """
        expires = self.manifest.expires
        if expires and (today or datetime.now(UTC).date().isoformat()) >= expires:
            message = f"{self.manifest.name} release {self.manifest.release} is not to be used from {expires} on"
            raise ExpiredBundle(message, hint="get a newer release, or see to the clock", expires=expires)

    def files(self) -> Iterator[tuple[FileEntry, Iterator[bytes]]]:
        """Each file with its pieces, which must be taken before the next one; then the end is checked.

        Raises:
            BadArtifact: a byte is not what the manifest leads to.
        """
        for entry in self.manifest.files:
            expect(self.file, layout.opening(self.file.tell(), entry.path, entry.bytes, executable=entry.executable))
            yield entry, _pieces(self.file, entry)
            expect(self.file, layout.closing(entry.bytes))
        expect(self.file, layout.END)
        if self.file.read(1):
            raise damaged("something follows its end")


@contextlib.contextmanager
def opened(path: Path, key: PublicKey | None = None) -> Iterator[Bundle]:
    """The bundle in a file, with its manifest read: where a `key` is given, only once its signature was right.

    Raises:
        UsageError: there is no such file. BadArtifact, UnsupportedArtifact: it is no bundle, or of a newer version.
        UntrustedBundle: it has no signature, or none by `key`.
    """
    with opened_file(path) as file:
        yield begun(path, file, key)


def begun(path: Path, file: BinaryIO, key: PublicKey | None = None) -> Bundle:
    """As `opened`, of a file at its beginning; `path` is what errors call it."""
    content = _first(file)
    digest = f"{hashlib.sha256(content).hexdigest()}  {NAME}\n".encode()
    expect(file, layout.opening(file.tell(), DIGEST, len(digest)) + digest + layout.closing(len(digest)))
    signed = _signature(file)
    if key is not None:
        _require_trust(path, content, signed, key)
    return Bundle(path, manifests.decode(content), content, signed, file)


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[BinaryIO]:
    """
    Raises:
        UsageError: there is no regular file at `path`.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_named(path))
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror or error}"
            raise UsageError(message, hint="name a file that `edgellm bundle` wrote", param="file") from None
        yield file


def verify(bundle: Bundle) -> None:
    """Read all of it.

    Raises:
        BadArtifact
    """
    for _, pieces in bundle.files():
        for _ in pieces:
            pass


def expect(file: BinaryIO, content: bytes) -> None:
    """
    Raises:
        BadArtifact: something else comes next.
    """
    at = file.tell()
    if file.read(len(content)) != content:
        raise damaged(f"from byte {at} on it has not the {len(content)} bytes that its manifest leads to")


def _first(file: BinaryIO) -> bytes:
    """The manifest; how long it is, its header says."""
    size = layout.size_in(file.read(layout.ALIGNED)[-layout.BLOCK :])
    if not 0 < size <= manifests.MAX_BYTES:
        message = f"it does not begin with a {NAME} of at most {manifests.MAX_BYTES} bytes"
        raise damaged(message)
    file.seek(0)
    expect(file, layout.opening(0, NAME, size))
    content = file.read(size)
    if len(content) < size:
        raise damaged(f"it ends in its {NAME}")
    expect(file, layout.closing(size))
    return content


def _signature(file: BinaryIO) -> bytes:
    """The signature, where one follows."""
    at = file.tell()
    filled = len(layout.opening(at, SIGNATURE, 1))
    header = file.read(filled)[-layout.BLOCK :]
    size = layout.size_in(header)
    file.seek(at)
    if not 0 < size <= signature.MAX_BYTES or header != layout.opening(at, SIGNATURE, size)[-layout.BLOCK :]:
        return b""
    expect(file, layout.opening(at, SIGNATURE, size))
    content = file.read(size)
    expect(file, layout.closing(size))
    return content


def _require_trust(path: Path, content: bytes, signed: bytes, key: PublicKey) -> None:
    """
    Raises:
        UntrustedBundle
    """
    if not signed:
        raise UntrustedBundle(f"{path} is not signed", hint="make it with --key, or use one that is signed")
    signature.check(content, signed, key)


def _pieces(file: BinaryIO, entry: FileEntry) -> Iterator[bytes]:
    """
    Raises:
        BadArtifact: a piece or the whole has another hash.
    """
    whole, left = hashlib.sha256(), entry.bytes
    for no in range(-(-entry.bytes // PIECE)):
        piece = file.read(min(PIECE, left))
        left -= len(piece)
        whole.update(piece)
        if entry.pieces:
            sha256, promised = hashlib.sha256(piece).hexdigest(), entry.pieces[no]
        else:
            sha256, promised = whole.hexdigest(), entry.sha256
        if sha256 != promised:
            raise damaged(f"MiB {no + 1} of {entry.path} has another hash, or the bundle ends in it")
        yield piece
    if whole.hexdigest() != entry.sha256:
        raise damaged(f"{entry.path} has another hash than its manifest says")
