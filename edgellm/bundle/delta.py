"""What a new bundle has that an old one has not: chunks that are cut by their content, so that a few bytes more at the
beginning of a model move nothing.

    edgellm-delta 1\\n, 8 bytes with the length of the head, the head (JSON), the new bytes one after the other

`pyfastcdc` cuts, and is in the extra `edgellm[make-bundle]`; putting together needs no library.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Protocol

import msgspec
from msgspec import Meta, Struct

from edgellm.bundle import layout, reader, signature
from edgellm.bundle import manifest as manifests
from edgellm.bundle.manifest import DIGEST, NAME, PIECE, SIGNATURE, Sha256
from edgellm.bundle.reader import Bundle
from edgellm.bundle.slots import BundleSlot
from edgellm.contract.source import Progress
from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError

if TYPE_CHECKING:
    from minisign import PublicKey

MAGIC = b"edgellm-delta 1\n"
SCHEMA = 1
CHUNK = 16 * 1024  # bytes on average: of a 94 MB model whose header grew, a third of what 64 KiB leave
MAX_HEAD_BYTES = 8 * 1024**2
MAX_STEPS = 250_000  # a step takes some 130 bytes once it is read
# The longest manifest, its hash and its signature, each with what stands before and behind it.
MAX_BEGIN_BYTES = manifests.MAX_BYTES + signature.MAX_BYTES + 6 * layout.ALIGNED
NEW = -1  # in place of an offset: the next bytes of the delta
_WHOLE = "carry the whole bundle instead"

_Offset = Annotated[int, Meta(ge=NEW, le=2**50)]
_Length = Annotated[int, Meta(ge=1, le=2**50)]


class DeltaHead(Struct, frozen=True, kw_only=True):
    """How the new bundle is put together."""

    old: Sha256  # of the manifest of the bundle that it needs
    new: Sha256
    new_bytes: _Length
    sha256: Sha256  # of the new bundle
    steps: tuple[tuple[_Offset, _Length], ...]  # offset in the old bundle, or NEW; length
    schema: int = SCHEMA


class Old(Protocol):
    """The bytes of the bundle that a machine has."""

    sha256: str  # of its manifest

    def read_at(self, offset: int, n_bytes: int) -> bytes: ...


def make(old: Path, new: Path, file: BinaryIO, progress: Progress) -> DeltaHead:
    """Write to an empty file what `new` has and `old` has not.

    Raises:
        BadArtifact, UnsupportedArtifact: one of them is no sound bundle. UsageError: what cuts is not installed, or
        they differ in too many places.
    """
    cutter = _cutter()
    with _named(old), reader.opened(old) as one:
        reader.verify(one)
    places: dict[bytes, int] = {}
    for offset, chunk in _chunks(cutter, old):
        places.setdefault(hashlib.sha256(chunk).digest(), offset)
    with _named(new), reader.opened(new) as two:
        reader.verify(two)
    steps: list[tuple[int, int]] = []
    whole, n_bytes, total = hashlib.sha256(), 0, new.stat().st_size
    for _, chunk in _chunks(cutter, new):
        whole.update(chunk)
        n_bytes += len(chunk)
        progress(n_bytes, total, "comparing")
        _add(steps, places.get(hashlib.sha256(chunk).digest(), NEW), len(chunk))
    head = DeltaHead(old=one.sha256, new=two.sha256, new_bytes=n_bytes, sha256=whole.hexdigest(), steps=tuple(steps))
    content = msgspec.json.encode(head)
    if len(steps) > MAX_STEPS or len(content) > MAX_HEAD_BYTES:
        message = f"the two bundles differ in too many places: {len(steps):,} steps, at most {MAX_STEPS:,} are read"
        raise UsageError(message, hint=_WHOLE, param="new")
    file.write(MAGIC + len(content).to_bytes(8, "big") + content)
    with open(new, "rb") as source:
        for offset, length in steps:
            if offset == NEW:
                for piece in _read(source, length):
                    file.write(piece)
            else:
                source.seek(length, 1)
    return head


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Of two bundles, the one that is not sound is told by its name."""
    try:
        yield
    except (BadArtifact, UnsupportedArtifact) as error:
        error.message = f"{path}: {error.message}"
        raise


def read_head(file: BinaryIO) -> DeltaHead:
    """
    Raises:
        BadArtifact: it is no delta. UnsupportedArtifact: of a newer version.
    """
    begin = file.read(len(MAGIC) + 8)
    n_bytes = int.from_bytes(begin[len(MAGIC) :], "big")
    if not begin.startswith(MAGIC[:-2]) or not 0 < n_bytes <= MAX_HEAD_BYTES:
        raise _damaged("it does not begin as one")
    if not begin.startswith(MAGIC):
        raise UnsupportedArtifact("the delta is of a newer version of EdgeLLM", hint=f"update edgellm, or {_WHOLE}")
    content = file.read(n_bytes)
    if content.count(b"[") > MAX_STEPS + 1:  # before each takes memory
        raise _damaged(f"it has more than {MAX_STEPS:,} steps")
    try:
        head = msgspec.json.decode(content, type=DeltaHead)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(f"its head cannot be read: {error}") from None
    if sum(length for _, length in head.steps) != head.new_bytes:
        raise _damaged("its steps do not add up to the bundle")
    return head


def judge(old: Old, delta: BinaryIO, head: DeltaHead, path: Path, key: PublicKey | None) -> None:
    """Refuse a delta by what the new bundle begins with, its manifest and signature, before a byte is written; `delta`
    stays where it is behind its head. The rest is held to the manifest when the bundle is installed.

    Raises:
        UsageError: it needs another bundle. BadArtifact, UnsupportedArtifact: it, or what the machine has, is damaged,
        or it makes something else than the bundle that it names. UntrustedBundle: `key`, where one is given, did not
        sign that bundle. ExpiredBundle.
    """
    behind_head = delta.tell()
    begin = bytearray()
    for piece in _new_pieces(old, delta, head):
        begin += piece
        if len(begin) > MAX_BEGIN_BYTES:
            break
    delta.seek(behind_head)
    bundle = reader.begun(path, io.BytesIO(begin), key)
    bundle.require_date()
    if bundle.sha256 != head.new or bundle.n_bytes != head.new_bytes:
        raise _damaged("it makes another bundle than the one that it names")


def put_together(old: Old, delta: BinaryIO, head: DeltaHead, file: BinaryIO, progress: Progress) -> None:
    """Write the new bundle to an empty file.

    Raises:
        UsageError: it needs another bundle. BadArtifact: the delta, or what the machine has, is damaged.
    """
    whole, done = hashlib.sha256(), 0
    for piece in _new_pieces(old, delta, head):
        whole.update(piece)
        file.write(piece)
        done += len(piece)
        progress(done, head.new_bytes, "putting together")
    if whole.hexdigest() != head.sha256:
        raise _damaged("what it makes of the bundle here has another hash: one of the two changed")


def _new_pieces(old: Old, delta: BinaryIO, head: DeltaHead) -> Iterator[bytes]:
    """The new bundle from its beginning on."""
    if old.sha256 != head.old:
        message = f"the delta needs the bundle with sha256 {head.old[:16]}, here is {old.sha256[:16]}"
        raise UsageError(message, hint=f"make one against the bundle that is here, or {_WHOLE}", param="delta")
    for offset, length in head.steps:
        for at in range(0, length, PIECE):
            n_bytes = min(PIECE, length - at)
            piece = delta.read(n_bytes) if offset == NEW else old.read_at(offset + at, n_bytes)
            if len(piece) != n_bytes:
                raise _damaged("it ends too early, or names bytes behind the end of the old bundle")
            yield piece


class BundleFile:
    """The old bundle as a file."""

    def __init__(self, bundle: Bundle) -> None:
        self.sha256 = bundle.sha256
        self._file = bundle.file

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(n_bytes)


class SlotFiles:
    """The bundle that a slot was installed from, as bytes: they follow from its files."""

    def __init__(self, slot: BundleSlot) -> None:
        """
        Raises:
            OSError, ArtifactError: the slot is not whole.
        """
        manifest = slot.manifest()
        content = (slot.files / NAME).read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._begins: list[int] = []
        self._parts: list[bytes | Path] = []
        self._n_bytes = 0
        for name in (NAME, DIGEST, SIGNATURE):
            if (path := slot.files / name).exists():
                self._add_file(name, path, path.stat().st_size, executable=False)
        for entry in manifest.files:
            self._add_file(entry.path, slot.files / entry.path, entry.bytes, executable=entry.executable)
        self._add(layout.END, len(layout.END))

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        parts = []
        at = bisect.bisect_right(self._begins, offset) - 1
        while n_bytes > 0 and offset < self._n_bytes:
            inside = offset - self._begins[at]
            end = self._begins[at + 1] if at + 1 < len(self._begins) else self._n_bytes
            part = _part(self._parts[at], inside, min(n_bytes, end - offset))
            if not part:
                break
            parts.append(part)
            offset, n_bytes = offset + len(part), n_bytes - len(part)
            at += offset >= end
        return b"".join(parts)

    def _add_file(self, path: str, source: Path, n_bytes: int, *, executable: bool) -> None:
        opening = layout.opening(self._n_bytes, path, n_bytes, executable=executable)
        self._add(opening, len(opening))
        self._add(source, n_bytes)
        self._add(closing := layout.closing(n_bytes), len(closing))

    def _add(self, part: bytes | Path, n_bytes: int) -> None:
        if n_bytes:
            self._begins.append(self._n_bytes)
            self._parts.append(part)
            self._n_bytes += n_bytes


def _part(part: bytes | Path, at: int, n_bytes: int) -> bytes:
    if isinstance(part, bytes):
        return part[at : at + n_bytes]
    with open(part, "rb") as file:
        file.seek(at)
        return file.read(n_bytes)


def _add(steps: list[tuple[int, int]], offset: int, length: int) -> None:
    """One step more, or the last one longer."""
    if steps:
        before, so_far = steps[-1]
        if offset == before == NEW or (NEW not in (offset, before) and before + so_far == offset):
            steps[-1] = (before, so_far + length)
            return
    steps.append((offset, length))


class _Cutter(Protocol):
    def cut_stream(self, stream: BinaryIO) -> Iterator[_Chunk]: ...


class _Chunk(Protocol):
    offset: int
    data: memoryview


def _cutter() -> _Cutter:
    """
    Raises:
        UsageError: it is not installed.
    """
    try:
        from pyfastcdc import FastCDC
    except ImportError:
        message = "deltas are made with pyfastcdc, which is not installed"
        raise UsageError(message, hint='pip install "edgellm[make-bundle]"') from None
    cutter: _Cutter = FastCDC(CHUNK)
    return cutter


def _chunks(cutter: _Cutter, path: Path) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        for chunk in cutter.cut_stream(file):
            yield chunk.offset, bytes(chunk.data)


def _read(file: BinaryIO, n_bytes: int) -> Iterator[bytes]:
    while n_bytes:
        piece = file.read(min(PIECE, n_bytes))
        if not piece:
            raise UsageError("the new bundle changed while it was read", hint="let nothing write to it, and try again")
        yield piece
        n_bytes -= len(piece)


def _damaged(what: str) -> BadArtifact:
    return BadArtifact(f"this is no sound delta: {what}", hint=f"copy it again, or {_WHOLE}")
