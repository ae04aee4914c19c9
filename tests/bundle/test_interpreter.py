"""A Python that goes along is looked at first: what would fail on the machine is refused here."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from support import pythons
from support.refusals import refuses

from edgellm.bundle import interpreter
from edgellm.bundle.tar_tree import TarTree, opened_tar
from edgellm.errors import UsageError

SSL = "python/lib/python3.13/lib-dynload/_ssl.cpython-313-aarch64-linux-gnu.so"


def test_it_is_told_what_it_is(tmp_path: Path) -> None:
    path = pythons.tar(tmp_path / "cpython-3.13.9+20251120-aarch64-install_only.tar.gz", pythons.files())
    python = interpreter.read(path)

    assert (python.arch, python.python, python.glibc, python.licence) == ("aarch64", "3.13", "2.25", "PSF-2.0")
    assert python.program == "python/bin/python3"
    assert python.unpacked_bytes == sum(map(len, pythons.files().values()))
    assert python.archive.path == f"python/{path.name}"
    parts = python.parts()
    assert [content.path for part in parts for content in part.files] == [
        python.archive.path, "licences/cpython-3.13-aarch64/LICENSE.txt",
    ]  # fmt: skip
    assert {part.licence for part in parts} == {"PSF-2.0"}


def test_one_for_musl_is_told_as_such(tmp_path: Path) -> None:
    files = pythons.files(loader="/lib/ld-musl-aarch64.so.1")
    python = interpreter.read(pythons.tar(tmp_path / "x.tar.gz", files))

    assert (python.arch, python.python, python.glibc) == ("aarch64", "3.13", "")


REFUSED: dict[str, dict[str, bytes]] = {
    "another C library": {"python/bin/python3.13": pythons.elf(loader="/system/bin/linker64")},
    "no program": {"python/bin/python3.13": b"#!/bin/sh\n"},
    "two processors": {SSL: pythons.elf(62)},
    "another processor": {"python/bin/python3.13": pythons.elf(243), SSL: pythons.elf(243)},
    "no licence": {"python/lib/python3.13/LICENSE.txt": b""},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_fail_there_is_refused(what: str, tmp_path: Path) -> None:
    with refuses(UsageError, param="with_python"):
        interpreter.read(pythons.tar(tmp_path / "x.tar.gz", pythons.files() | REFUSED[what]))


@pytest.mark.parametrize("missing", ["bin/python3.13", "lib/python3.13/os.py", "lib/python3.13/ensurepip/__init__.py"])
def test_what_lacks_something_is_refused(missing: str, tmp_path: Path) -> None:
    files = {name: data for name, data in pythons.files().items() if name != f"python/{missing}"}
    with refuses(UsageError, param="with_python"):
        interpreter.read(pythons.tar(tmp_path / "x.tar.gz", files, {"python/bin/python3": "python3.13"}))


@pytest.mark.parametrize("target", ["/usr/bin/python3.13", "../../../python3.13"])
def test_nothing_leads_out_of_it(target: str, tmp_path: Path) -> None:
    with refuses(UsageError, param="with_python"):
        interpreter.read(pythons.tar(tmp_path / "x.tar.gz", pythons.files(), {"python/bin/python3": target}))


def test_an_older_python_is_refused(tmp_path: Path) -> None:
    with refuses(UsageError, param="with_python"):
        interpreter.read(pythons.tar(tmp_path / "x.tar.gz", pythons.files("3.10")))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08garbage", b"PK\3\4"])
def test_what_is_no_tar_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    with refuses(UsageError, param="with_python", varies=r"\(.*\)"):
        interpreter.read(tmp_path / "x.tar.gz")


def test_a_folder_is_to_be_packed_first(tmp_path: Path) -> None:
    with refuses(UsageError, param="with_python"):
        interpreter.read(tmp_path)


def test_more_than_a_python_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pythons.tar(tmp_path / "x.tar.gz", pythons.files())
    for name in ("MAX_MEMBERS", "MAX_BYTES"):
        with monkeypatch.context() as patch, refuses(UsageError, param="with_python"):
            patch.setattr(interpreter, name, 3)
            interpreter.read(path)


def test_a_file_that_is_longer_than_a_header_may_be_is_read(tmp_path: Path) -> None:
    content = os.urandom(3 * 1024**2)
    (tmp_path / "python3").write_bytes(content)
    with tarfile.open(tmp_path / "python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "python3", "bin/python3")

    with opened_tar(tmp_path / "python.tar.gz", 4 * 1024**2) as archive:
        tree = TarTree(archive)
        assert tree.read("bin/python3") == content
        assert tree.read("bin/python3", 20) == content[:20]
