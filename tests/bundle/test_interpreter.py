"""A Python that goes along is looked at first: what would fail on the machine is refused here."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from support import pythons
from support.refusals import refuses

from edgellm.bundle import interpreter, tar_tree
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


@pytest.mark.parametrize(("where", "name"), [(tar_tree, "_MAX_MEMBERS"), (interpreter, "MAX_BYTES")])
def test_more_than_a_python_has_is_refused(
    where: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pythons.tar(tmp_path / "x.tar.gz", pythons.files())
    monkeypatch.setattr(where, name, 3)
    with refuses(UsageError, param="with_python"):
        interpreter.read(path)


def test_its_texts_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {f"python/lib/python3.13/LICENSE-{no}": bytes(100) for no in range(5)}
    path = pythons.tar(tmp_path / "x.tar.gz", pythons.files() | more)
    monkeypatch.setattr(interpreter, "MAX_TEXTS_BYTES", 500)

    with refuses(UsageError, param="with_python"):
        interpreter.read(path)


def of_pax(folder: Path, kind: bytes, told: Sequence[bytes]) -> Path:
    """A tar.gz with a file behind each of these headers."""
    with gzip.open(folder / "x.tar.gz", "wb", compresslevel=1) as file:
        for no, text in enumerate(told):
            header = tarfile.TarInfo("p")
            header.type, header.size = kind, len(text)
            file.write(header.tobuf(tarfile.USTAR_FORMAT) + text + bytes(-len(text) % 512))
            file.write(tarfile.TarInfo(f"a{no}").tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(10240))
    return folder / "x.tar.gz"


def test_a_header_of_pax_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_pax(tmp_path, tarfile.XHDTYPE, [comment(100)] * 3)
    monkeypatch.setattr(tar_tree, "_MAX_MEMBERS", 3)

    with opened_tar(path, 1000) as archive:
        assert [*TarTree(archive).members] == ["a0", "a1", "a2"]


def comment(n_bytes: int, key: str = "comment") -> bytes:
    text = f" {key}={'a' * (n_bytes - 7 - len(key) - 2)}\n".encode()
    return f"{len(text) + 6:06d}".encode() + text


TELLING = {
    "a-long-number": (tarfile.XHDTYPE, [b"1" * 8000]),
    "a-long-one": (tarfile.XHDTYPE, [comment(17_000)]),
    "a-long-name": (tarfile.GNUTYPE_LONGNAME, [b"a" * 17_000]),
    "many-for-all": (tarfile.XGLTYPE, [comment(100, f"key{no}") for no in range(200)]),
}


@pytest.mark.parametrize("case", TELLING)
def test_a_tar_that_tells_too_much_is_refused(case: str, tmp_path: Path) -> None:
    with refuses(tarfile.ReadError), opened_tar(of_pax(tmp_path, *TELLING[case]), 1000) as archive:
        TarTree(archive)


def test_all_that_a_tar_tells_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_pax(tmp_path, tarfile.XHDTYPE, [comment(4096)] * 20)
    with opened_tar(path, 1000) as archive:
        assert not any(member.pax_headers for member in TarTree(archive).members.values())

    monkeypatch.setattr(tar_tree, "_MAX_HEADERS", 15 * 5120)
    with refuses(tarfile.ReadError), opened_tar(path, 1000) as archive:
        TarTree(archive)


@pytest.mark.parametrize("n_headers", [60, 5000])
def test_headers_of_headers_end(n_headers: int, tmp_path: Path) -> None:
    header = tarfile.TarInfo("p")
    header.type = tarfile.XHDTYPE
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT) * n_headers + tarfile.TarInfo("a").tobuf() + bytes(10240))

    if n_headers < 100:
        with opened_tar(tmp_path / "x.tar.gz", 1000) as archive:
            assert list(TarTree(archive).members) == ["a"]
    else:
        with pytest.raises(tarfile.ReadError), opened_tar(tmp_path / "x.tar.gz", 1000):
            pass


@pytest.mark.parametrize(("name", "n_bytes"), [("x.tar", 2**70), ("x.tar.gz", 2**40)])
def test_what_is_said_to_lie_far_behind_is_not_looked_for(name: str, n_bytes: int, tmp_path: Path) -> None:
    member = tarfile.TarInfo("a")
    member.size = n_bytes
    content = member.tobuf(tarfile.GNU_FORMAT) + bytes(10240)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    with refuses(tarfile.ReadError), opened_tar(tmp_path / name, 1000) as archive:
        TarTree(archive)


def test_a_file_that_is_longer_than_a_header_may_be_is_read(tmp_path: Path) -> None:
    content = os.urandom(3 * 1024**2)
    (tmp_path / "python3").write_bytes(content)
    with tarfile.open(tmp_path / "python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "python3", "bin/python3")

    with opened_tar(tmp_path / "python.tar.gz", 4 * 1024**2) as archive:
        tree = TarTree(archive)
        assert tree.read("bin/python3") == content
        assert tree.read("bin/python3", 20) == content[:20]
