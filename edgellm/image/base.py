"""The lowest layer: a root with a Python, from a folder or made by mmdebstrap; and what it holds, read from the layer.

mmdebstrap asks a mirror for Debian's packages and checks their signatures. It needs no daemon, and any user may run it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgellm.bundle.tar_tree import ELF_MACHINES, PYTHON, TarTree, processor
from edgellm.bundle.writer import Content
from edgellm.errors import SourceError, UsageError
from edgellm.image import debian, tar_layer
from edgellm.image.writer import Blob

_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_GLIBC = re.compile(rb"GNU C Library [^\n]{0,200} version (2\.\d{1,2})")
_MAX_READ = 64 * 1024**2
_PIECE = 1024**2


@dataclass(frozen=True, slots=True)
class Base:
    """What a root is for, its files by path, and what of it states packages and licences."""

    arch: str  # "x86_64"
    python: str  # "3.13"
    glibc: str  # "2.41"
    files: dict[str, Content]
    texts: dict[str, str] = field(repr=False)


def from_folder(blob: Blob, root: Path, latest: int | None) -> None:
    """
    Raises:
        UsageError: it is no folder, or holds what cannot be read, or be in a layer. OSError.
    """
    if not os.path.isdir(root):  # not where nobody may look, either
        hint = "name a folder with a root that has python3, or make one with --debian trixie"
        raise UsageError(f"{root} is not a folder", hint=hint, param="root")
    tar_layer.write_root(blob, root, latest)


def by_mmdebstrap(blob: Blob, suite: str, arch: str, mirror: str) -> None:
    """A Debian of that suite with python3 and nothing that it does not need.

    SOURCE_DATE_EPOCH, where it is set, is the time of everything newer, so that the same packages make the same bytes.

    Raises:
        UsageError: mmdebstrap is not here, or the machine's processor is none of Debian's. SourceError: it failed.
    """
    if shutil.which("mmdebstrap") is None:
        hint = "apt-get install mmdebstrap, or give a root of your own with --root"
        raise UsageError("mmdebstrap is not installed, which makes Debian roots", hint=hint, param="debian")
    if arch not in _DEBIAN:
        raise UsageError(f"roots are made for {', '.join(_DEBIAN)}, not for {arch}", hint="use --root", param="debian")
    command = [
        "mmdebstrap", "--quiet", "--variant=minbase", "--include=python3", f"--architectures={_DEBIAN[arch]}",
        "--format=tar", "--", suite, "-", *([mirror] if mirror else []),
    ]  # fmt: skip
    with (
        tempfile.TemporaryFile() as errors,  # a pipe that nobody empties would stop it
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL) as making,
    ):
        assert making.stdout is not None
        while piece := making.stdout.read(_PIECE):
            blob.write(piece)
        making.wait()
        errors.seek(0)
        told = errors.read(_MAX_READ).decode(errors="replace").strip().splitlines()
    if making.returncode:
        last = told[-1] if told else "it says nothing"
        hint = "see whether its mirror answers, and, for another processor, whether qemu-user-static is installed"
        raise SourceError(f"mmdebstrap could not make Debian {suite} for {arch}: {last}", hint=hint)


def survey(layer: Path) -> Base:
    """What the layer is for.

    Raises:
        UsageError: it has no Python, or no glibc.
    """
    with tarfile.open(layer, "r:") as archive:
        root = TarTree(archive)
        python = root.resolve("usr/bin/python3")
        version = PYTHON.fullmatch(python)
        if version is None or python not in root.members:
            hint = "install Debian's package python3 in it, or make a root with --debian trixie"
            raise UsageError("the root has no /usr/bin/python3", hint=hint, param="root")
        arch = processor(root.read(python, 20))
        if not arch:
            hint = f"give one for {' or '.join(ELF_MACHINES.values())}"
            raise UsageError("the root's Python is for a processor that has no wheels", hint=hint, param="root")
        places = (f"usr/lib/{arch}-linux-gnu", "usr/lib64", "usr/lib", f"lib/{arch}-linux-gnu", "lib64", "lib")
        libraries = [path for path in (root.resolve(f"{p}/libc.so.6") for p in places) if path in root.members]
        glibc = next((match[1].decode() for path in libraries if (match := _GLIBC.search(root.read(path)))), "")
        if not glibc:
            hint = "give a root with glibc: there are no wheels for other libraries in images"
            raise UsageError("the root has no glibc", hint=hint, param="root")
        # A package may share its folder of documents with another one.
        names = {*root.members, *(f"{path}/copyright" for path, member in root.members.items() if member.issym())}
        texts = {path: root.text(path) for path in names if debian.is_read(path)}
        return Base(arch, version[1], glibc, dict(_files(root)), texts)


def _files(tree: TarTree) -> Iterator[tuple[str, Content]]:
    for path in sorted(tree.members):
        if (file := tree.opened(path)) is not None:
            sha256, n_bytes = hashlib.sha256(), 0
            while piece := file.read(_PIECE):
                sha256.update(piece)
                n_bytes += len(piece)
            yield path, Content(path, n_bytes, sha256.hexdigest(), Path(os.sep, path))
