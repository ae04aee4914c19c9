"""A tree of files in a tar, read where it lies: paths as who unpacks it would follow them."""

from __future__ import annotations

import posixpath
import re
import tarfile

ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
PYTHON = re.compile(r"(?:.*/)?python(3\.\d{1,2})")  # what the name `python3` leads to
_MAX_LINKS = 40
_MAX_PATH = 1024  # characters, with what links put in: no tree has longer ones
_MAX_READ = 64 * 1024**2


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
        file = self._archive.extractfile(self.members[path])
        return b"" if file is None else file.read(n_bytes)

    def text(self, path: str) -> str:
        """Of a file, also behind links; "" where there is none."""
        path = self.resolve(path)
        return self.read(path).decode(errors="replace") if path in self.members else ""


def processor(elf: bytes) -> str:
    """Which processor an ELF file is for, by its first 20 bytes; "" = no ELF file, or for none that has wheels."""
    is_elf = elf[:4] == b"\x7fELF"
    return ELF_MACHINES.get(int.from_bytes(elf[18:20], "little"), "") if is_elf else ""
