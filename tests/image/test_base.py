"""What a root that somebody else made is asked before it becomes a layer."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path, PurePath
from typing import cast

import pytest
from support import images
from support.refusals import refuses

from edgellm.bundle.tar_tree import TarTree
from edgellm.errors import UsageError
from edgellm.image import tar_layer
from edgellm.image.base import from_folder, survey
from edgellm.image.writer import Blob


@pytest.mark.parametrize("target", ["/x" * 400, "/x" * 40 + "/../y" * 100])
def test_links_that_lengthen_a_path_end(target: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for no in range(39):
            member = tarfile.TarInfo(f"l{no}")
            member.type, member.linkname = tarfile.SYMTYPE, f"l{no + 1}{target}"
            archive.addfile(member)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        assert len(TarTree(archive).resolve("l0")) < 2000


Row = tuple[bytes, str]  # type, and where it leads
CIRCLES: dict[str, dict[str, Row]] = {
    "itself": {"a": (tarfile.SYMTYPE, "a")},
    "two": {"a": (tarfile.SYMTYPE, "b"), "b": (tarfile.SYMTYPE, "a")},
    "beside": {"x": (tarfile.REGTYPE, ""), "a": (tarfile.SYMTYPE, "b"), "b": (tarfile.SYMTYPE, "a")},
    "another-name": {"b": (tarfile.SYMTYPE, "a"), "a": (tarfile.LNKTYPE, "b")},
    "its-own-name": {"a": (tarfile.LNKTYPE, "a")},
}


@pytest.mark.parametrize("case", CIRCLES)
def test_links_in_a_circle_lead_nowhere(case: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, (kind, target) in CIRCLES[case].items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        tree = TarTree(archive)
        assert tree.text("a") == ""
        assert tree.read("a") == b""


def test_a_file_is_read_by_its_other_names() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("./x/first")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
        for name, kind, target in (("second", tarfile.LNKTYPE, "./x/first"), ("third", tarfile.SYMTYPE, "second")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        assert TarTree(archive).text("third") == "abc"


@pytest.mark.parametrize("path", ["usr/bin/python3", "usr/lib/x86_64-linux-gnu/libc.so.6"])
def test_a_root_whose_links_lead_in_a_circle_is_refused(path: str, tmp_path: Path) -> None:
    root = images.root(tmp_path / "root")
    (root / path).unlink()
    (root / path).symlink_to(PurePath(path).name)
    with tarfile.open(tmp_path / "layer", "w") as archive:
        archive.add(root, ".")

    with refuses(UsageError, param="root"):
        survey(tmp_path / "layer")


def test_what_of_a_root_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, _: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "secret").touch()
    monkeypatch.setattr(tar_layer, "open", closed, raising=False)
    blob = cast(Blob, io.BytesIO())
    with refuses(UsageError, param="root"):
        from_folder(blob, tmp_path / "root", None)
    with refuses(UsageError, param="root"):
        from_folder(blob, tmp_path / ("x" * 300), None)
