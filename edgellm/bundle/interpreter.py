"""A Python that goes along for machines that have none: a tar of a relocatable tree, which is looked at and never run.

Such trees are `install_only` archives of python-build-standalone, or what `make install` of CPython wrote with its
library beside it. Asked is what would otherwise fail on the machine: processor, C library, version, and what makes
virtual environments.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgellm.bundle.papers import FOLDER, MAX_TEXT_BYTES, MAX_TEXTS_BYTES, PackedPart
from edgellm.bundle.tar_tree import ELF_MACHINES, PYTHON, TarTree, opened_tar, processor
from edgellm.bundle.writer import Content
from edgellm.errors import UsageError
from edgellm.files import safe_name

ARCHIVES = "python"  # folder in a bundle
MAX_BYTES = 2 * 1024**3  # unpacked
_OLDEST = (3, 11)
_SHOWN = 500  # characters of what is wrong with it, which may have a name of any length in it
_PROGRAM = re.compile(r"(.*/)?bin/python3")
_GLIBC = re.compile(rb"GLIBC_2\.(\d{1,2})\b")
_LOADERS = {b"/ld-linux-": "glibc", b"/ld-musl-": "musl"}
_TEXT = re.compile(r"(?:LICEN[SC]E|COPYING)[^/]*", re.IGNORECASE)
_PSF = "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"
_NEEDED = ("os.py", "venv/__init__.py", "ensurepip/__init__.py")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What such a tar is."""

    arch: str  # "aarch64"
    python: str  # "3.13"
    glibc: str  # "2.17", the oldest that its files run with; "" = they are for musl
    program: str  # path of python3 in the tar
    unpacked_bytes: int
    archive: Content
    texts: tuple[Content, ...] = field(repr=False)  # of its licences
    licence: str

    def parts(self) -> list[PackedPart]:
        purl = f"pkg:generic/cpython@{self.python}"
        texts = [PackedPart("file", text.path, "", self.licence, (text,)) for text in self.texts]
        return [PackedPart("library", "cpython", self.python, self.licence, (self.archive,), purl), *texts]


def read(path: Path) -> Interpreter:
    """
    Raises:
        UsageError: it is no such tar, or of a Python that EdgeLLM or its wheels do not run with.
    """
    with _opened(path) as archive:
        tree = TarTree(archive)
        n_bytes = _checked(path, tree)
        program = min((name for name in tree.members if _PROGRAM.fullmatch(name)), key=len, default="")
        target = tree.resolve(program)
        version = PYTHON.fullmatch(target)
        if not program or version is None or target not in tree.members:
            raise _refused(path, "it has no bin/python3 that leads to a python3.N")
        python, home = version[1], posixpath.dirname(posixpath.dirname(program))
        if tuple(map(int, python.split("."))) < _OLDEST:
            raise _refused(path, f"it is Python {python}, and EdgeLLM needs {'.'.join(map(str, _OLDEST))} or newer")
        library = posixpath.join(home, f"lib/python{python}")
        for name in _NEEDED:
            if tree.resolve(f"{library}/{name}") not in tree.members:
                raise _refused(path, f"it has no {library}/{name}, so no environment can be made with it")
        arch, glibc = _machine(path, tree, target)
        texts = _texts(path, tree, (home, f"{home}/licenses".lstrip("/"), library), f"cpython-{python}-{arch}")
    if not texts:
        raise _refused(path, f"no text of its licence is in it, as {library}/LICENSE.txt would be")
    first = next((text for text in texts if isinstance(text.data, bytes) and _PSF.encode() in text.data), texts[0])
    assert isinstance(first.data, bytes)
    licence = "PSF-2.0" if _PSF.encode() in first.data else first.data.decode(errors="replace").strip()[:100]
    content = Content.of_file(f"{ARCHIVES}/{safe_name(path.name)}", path)
    return Interpreter(
        arch, python, glibc, program, n_bytes, content, tuple(texts), licence.partition("\n")[0] or "unknown"
    )


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    if path.is_dir():
        hint = f"pack it: tar -czf python.tar.gz -C {path} ."
        raise UsageError(f"{path} is a folder", hint=hint, param="with_python")
    try:
        with opened_tar(path, MAX_BYTES) as archive:
            yield archive
    except (OSError, tarfile.TarError) as error:
        raise _refused(path, f"it is no sound tar or tar.gz ({error})") from None


def _checked(path: Path, tree: TarTree) -> int:
    """Bytes of all files; nothing leads out of where it is unpacked."""
    n_bytes = 0
    for member in tree.members.values():
        try:
            tarfile.data_filter(member, posixpath.sep + "nowhere")
        except tarfile.FilterError as error:
            raise _refused(path, str(error)) from None
        n_bytes += member.size
    if n_bytes > MAX_BYTES:
        raise _refused(path, f"it has {n_bytes:,} bytes unpacked, more than {MAX_BYTES:,}")
    return n_bytes


def _machine(path: Path, tree: TarTree, program: str) -> tuple[str, str]:
    """For which processor and which glibc all its programs and libraries are; "" = for musl, which tells no version."""
    arch, library, minor = "", "", 0
    for name, member in tree.members.items():
        if not member.isreg() or not (name == program or ".so" in posixpath.basename(name)):
            continue
        content = tree.read(name)
        its = processor(content)
        if name == program and not its:
            raise _refused(path, f"{name} is for none of {', '.join(ELF_MACHINES.values())}")
        if not its:
            continue
        arch = arch or its
        if its != arch:
            raise _refused(path, f"{name} is for {its}, other files are for {arch}")
        if name == program:
            library = next((library for loader, library in _LOADERS.items() if loader in content), "")
            if not library:
                raise _refused(path, f"{name} asks for the loader of neither glibc nor musl, so it opens no libraries")
        minor = max(minor, *(int(text) for text in _GLIBC.findall(content)), 0)
    return arch, f"2.{minor}" if library == "glibc" else ""


def _texts(archive: Path, tree: TarTree, folders: tuple[str, ...], name: str) -> list[Content]:
    texts, n_bytes = {}, 0
    for path, member in tree.members.items():
        if not member.isreg() or not 0 < member.size <= MAX_TEXT_BYTES:
            continue
        folder, file = posixpath.split(path)
        if folder in folders and _TEXT.match(file):
            n_bytes += member.size
            if n_bytes > MAX_TEXTS_BYTES:
                raise _refused(archive, f"its texts of licences have more than {MAX_TEXTS_BYTES:,} bytes")
            texts[file.lower()] = Content.of(f"{FOLDER}/{safe_name(name)}/{safe_name(file)}", tree.read(path))
    return list(texts.values())


def _refused(path: Path, problem: str) -> UsageError:
    hint = "give a relocatable CPython for Linux and the machine's processor, as python-build-standalone packs it"
    return UsageError(f"{path} is no Python for a bundle: {problem[:_SHOWN]}", hint=hint, param="with_python")
