"""A tree of files in a tar: read where it lies, by the paths that unpacking would give, or unpacked within bounds."""

from __future__ import annotations

import gzip
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Self, cast

from edgellm.files import open_named

ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
PYTHON = re.compile(r"(?:.*/)?python(3\.\d{1,2})")  # what the name `python3` leads to
_MAX_LINKS = 40
_SHOWN = 100  # characters of a name
_MAX_PATH = 1024  # characters, with what links put in: no tree has longer ones
_MAX_READ = 64 * 1024**2
_MAX_PIECE = 1024**2
# Of a tar that somebody made. Tarfile holds what it reads of each member, and of one that names another, as a whole.
_MAX_MEMBERS = 100_000
_MAX_HEADER = 8 * 1024  # bytes that are read at a time: of a name, or of all that PAX tells of a member
_DIGITS = re.compile(rb"\d{100}")  # tarfile of Python 3.11.9 begins anew at each of them
_MAX_OF_MEMBER = 64 * 1024  # of all headers before its contents
_MAX_HEADERS = 96 * 1024**2
_MAX_GLOBAL = 100  # values that PAX tells for all that follow, which tarfile copies for each member
_BESIDE = 256 * 1024**2  # headers, and what fills their blocks and the contents' up


class TarTree:
    """The members of a tar by their paths, without `/` or `./` before them."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self.members = {_place(member.name): member for member in archive}

    def resolve(self, path: str) -> str:
        """Where a path leads, in the tree; "" = nowhere, as links lead in a circle, or too far."""
        for _ in range(_MAX_LINKS):
            if len(path) > _MAX_PATH:
                break
            parts = path.split("/")
            for n in range(1, len(parts) + 1):
                member = self.members.get("/".join(parts[:n]))
                if member is not None and member.issym():
                    rest = parts[n:]
                    path = posixpath.normpath(posixpath.join("/", *parts[: n - 1], member.linkname, *rest)).lstrip("/")
                    break
            else:
                return path
        return ""

    def opened(self, path: str) -> IO[bytes] | None:
        """A file, by any of its names; None for what is none. Tarfile would follow links, also for ever."""
        member = self.members.get(path)
        for _ in range(_MAX_LINKS):
            if member is None or not member.islnk():
                break
            member = self.members.get(_place(member.linkname))
        return self._archive.extractfile(member) if member is not None and member.isreg() else None

    def read(self, path: str, n_bytes: int = _MAX_READ) -> bytes:
        file, pieces = self.opened(path), list[bytes]()
        while file is not None and n_bytes and (piece := file.read(min(n_bytes, _MAX_PIECE))):
            pieces.append(piece)
            n_bytes -= len(piece)
        return b"".join(pieces)

    def text(self, path: str) -> str:
        """Of a file, also behind links; "" where there is none."""
        path = self.resolve(path)
        return self.read(path).decode(errors="replace") if path in self.members else ""


def _place(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


@contextmanager
def opened_tar(path: Path, most: int) -> Iterator[tarfile.TarFile]:
    """A tar, or a tar.gz by its name, whose files have at most `most` bytes, also where it is made to be unpacked, or
    to tell of its members, for ever.

    Raises:
        tarfile.TarError: it is none, or has more (in the block, too). OSError: it cannot be read.
    """
    with ExitStack() as stack:
        file: BinaryIO = stack.enter_context(open_named(path))
        try:
            if path.name.endswith("gz"):
                file = cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=file)))
            bounded = cast("IO[bytes]", _Bounded(file, most + _BESIDE))
            yield stack.enter_context(tarfile.open(fileobj=bounded, mode="r:", tarinfo=_Member))
        except (ArithmeticError, EOFError, RecursionError, ValueError, zlib.error, gzip.BadGzipFile) as error:
            raise tarfile.ReadError(str(error)) from None


def unpack_tree(path: Path, folder: Path, most: int) -> None:
    """Unpack a tar or tar.gz, whose files have at most `most` bytes. What is told of a member is checked before it is
    written, and nothing is written through a link: what a link leads to is not looked at soon enough by every Python.

    Raises:
        tarfile.TarError: it is no sound one, has more, or leads out of `folder`. OSError: it cannot be written.
    """
    links: set[str] = set()
    n_bytes = 0
    with opened_tar(path, most) as archive:
        for member in archive:
            n_bytes += member.size
            if n_bytes > most:
                raise tarfile.ReadError(f"it has more than {most:,} bytes")
            for name in (member.name, *([member.linkname] if member.islnk() else [])):
                parts = _place(name).split("/")
                if any("/".join(parts[:n]) in links for n in range(1, len(parts) + 1)):
                    raise tarfile.ReadError(f"{member.name[:_SHOWN]!r} lies behind a link")
            if member.issym():
                links.add(_place(member.name))
            archive.extract(member, folder, filter="data")


class _Bounded:
    """A file for tarfile, which takes what a header says of its own length, and of the next one's place, as it is."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.tell = file.tell
        self.n_members = 0
        self._n_header_bytes = 0
        self._header_ends: int | None = None  # in `_n_header_bytes`; None = contents are read

    @property
    def is_in_header(self) -> bool:
        return self._header_ends is not None

    @contextmanager
    def header(self) -> Iterator[None]:
        """What is read in the block tells of one member."""
        before, self._header_ends = self._header_ends, self._header_ends or self._n_header_bytes + _MAX_OF_MEMBER
        try:
            yield
        finally:
            self._header_ends = before

    def read(self, n_bytes: int) -> bytes:
        if self._file.tell() + n_bytes > self._most:
            raise tarfile.ReadError(f"it is longer than {self._most:,} bytes")
        if self._header_ends is None:
            if n_bytes > _MAX_PIECE:
                raise tarfile.ReadError(f"it is read in pieces of {n_bytes:,} bytes")
            return self._file.read(n_bytes)
        self._n_header_bytes += n_bytes
        if n_bytes > _MAX_HEADER or self._n_header_bytes > min(self._header_ends, _MAX_HEADERS):
            raise tarfile.ReadError("what it tells of its files is too long")
        header = self._file.read(n_bytes)
        if _DIGITS.search(header):
            raise tarfile.ReadError("it tells a number that is too long")
        return header

    def seek(self, place: int) -> int:
        if place > self._most:  # gzip would unpack all that lies before
            raise tarfile.ReadError(f"it is longer than {self._most:,} bytes")
        return self._file.seek(place)


class _Member(tarfile.TarInfo):
    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        file = cast("_Bounded", archive.fileobj)
        with file.header():
            member = super().fromtarfile(archive)
        member.pax_headers = {}  # it has what counts of them
        file.n_members += not file.is_in_header  # a header of PAX reads the member that it tells of
        if file.n_members > _MAX_MEMBERS:
            raise tarfile.ReadError(f"it has more than {_MAX_MEMBERS:,} files")
        if len(archive.pax_headers) > _MAX_GLOBAL:
            raise tarfile.ReadError(f"it tells more than {_MAX_GLOBAL} things of all its files")
        return member


def processor(elf: bytes) -> str:
    """Which processor an ELF file is for, by its first 20 bytes; "" = no ELF file, or for none that has wheels."""
    is_elf = elf[:4] == b"\x7fELF"
    return ELF_MACHINES.get(int.from_bytes(elf[18:20], "little"), "") if is_elf else ""
