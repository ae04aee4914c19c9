"""What a root that somebody else made is asked before it becomes a layer."""

from __future__ import annotations

import io
import tarfile

import pytest

from edgellm.bundle.tar_tree import TarTree


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
