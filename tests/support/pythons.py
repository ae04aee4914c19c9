"""Tars that look like a relocatable Python, and one that is."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

LICENCE = b"A. HISTORY\nPYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n"


def elf(machine: int = 183, loader: str = "/lib/ld-linux-aarch64.so.1", glibc: int = 17) -> bytes:
    """What is read of a program for 64-bit Arm (62: x86-64)."""
    head = b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little")
    return head + f"\0{loader}\0GLIBC_2.{glibc}\0GLIBC_2.4\0".encode()


def files(python: str = "3.13", **told: int | str) -> dict[str, bytes]:
    """By path; `bin/python3` is a link to the program. `told`: of the program, as `elf` takes it."""
    library = f"python/lib/python{python}"
    return {
        f"python/bin/python{python}": elf(**told), f"{library}/os.py": b"", f"{library}/venv/__init__.py": b"",
        f"{library}/ensurepip/__init__.py": b"", f"{library}/LICENSE.txt": LICENCE,
        f"{library}/lib-dynload/_ssl.cpython-313-aarch64-linux-gnu.so": elf(glibc=25),
    }  # fmt: skip


def tar(path: Path, contents: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """`links`: path -> where it leads; unset: `bin/python3` to the program."""
    program = next((name for name in contents if "/bin/python3." in name), "")
    links = {"python/bin/python3": program.rpartition("/")[2]} if links is None else links
    with tarfile.open(path, "w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path
