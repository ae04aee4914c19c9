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
from typing import IO, BinaryIO, cast

from edgellm.files import open_named

ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
PYTHON = re.compile(r"(?:.*/)?python(3\.\d{1,2})")  # what the name `python3` leads to
_MAX_LINKS = 40
_SHOWN = 100  # characters of a name
_MAX_PATH = 1024  # characters, with what links put in: no tree has longer ones
_MAX_READ = 64 * 1024**2
MAX_MEMBERS = 100_000  # of a tar that is unpacked
_HEADER_BYTES = 256 * 1024**2  # of all members, beside their contents
_MAX_HEADER = 1024**2  # of one, which tarfile holds as a whole


class TarTree:
    """The members of a tar by their paths, without `/` or `./` before them."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self.members = {posixpath.normpath(m.name).lstrip("/"): m for m in archive}

    def resolve(self, path: str) -> str:
        """Where a path leads, in the tree."""
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
        return path

    def read(self, path: str, n_bytes: int = _MAX_READ) -> bytes:
        file, pieces = self._archive.extractfile(self.members[path]), list[bytes]()
        while file is not None and n_bytes and (piece := file.read(min(n_bytes, _MAX_HEADER))):  # as `_Bounded` allows
            pieces.append(piece)
            n_bytes -= len(piece)
        return b"".join(pieces)

    def text(self, path: str) -> str:
        """Of a file, also behind links; "" where there is none."""
        path = self.resolve(path)
        return self.read(path).decode(errors="replace") if path in self.members else ""


@contextmanager
def opened_tar(path: Path, most: int) -> Iterator[tarfile.TarFile]:
    """A tar, or a tar.gz by its name, whose files have at most `most` bytes, also where it is made to be unpacked for
    ever.

    Raises:
        tarfile.TarError: it is none, or has more (in the block, too). OSError: it cannot be read.
    """
    with ExitStack() as stack:
        file: BinaryIO = stack.enter_context(open_named(path))
        try:
            if path.name.endswith("gz"):
                file = cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=file)))
            bounded = cast("IO[bytes]", _Bounded(file, most + _HEADER_BYTES))
            yield stack.enter_context(tarfile.open(fileobj=bounded, mode="r:"))
        except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
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
        for n_members, member in enumerate(archive, start=1):
            n_bytes += member.size
            if n_bytes > most or n_members > MAX_MEMBERS:
                raise tarfile.ReadError(f"it has more than {most:,} bytes, or more than {MAX_MEMBERS:,} files")
            for name in (member.name, *([member.linkname] if member.islnk() else [])):
                parts = posixpath.normpath(name).lstrip("/").split("/")
                if any("/".join(parts[:n]) in links for n in range(1, len(parts) + 1)):
                    raise tarfile.ReadError(f"{member.name[:_SHOWN]!r} lies behind a link")
            if member.issym():
                links.add(posixpath.normpath(member.name).lstrip("/"))
            archive.extract(member, folder, filter="data")


class _Bounded:
    """A file for tarfile, which holds a header as a whole, however long it says that it is."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell = file.seek, file.tell

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > _MAX_HEADER or self._file.tell() + n_bytes > self._most:
            raise tarfile.ReadError(f"it is longer than {self._most:,} bytes, or has a header of {n_bytes:,}")
        return self._file.read(n_bytes)


def processor(elf: bytes) -> str:
    """Which processor an ELF file is for, by its first 20 bytes; "" = no ELF file, or for none that has wheels."""
    is_elf = elf[:4] == b"\x7fELF"
    return ELF_MACHINES.get(int.from_bytes(elf[18:20], "little"), "") if is_elf else ""
