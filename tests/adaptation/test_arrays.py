"""Files of arrays that somebody else made: whatever is wrong with one, it is damaged, and no memory is taken for it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.refusals import refuses

from edgellm.adaptation.arrays import read_arrays, write_arrays
from edgellm.errors import BadArtifact


def member(header: bytes) -> bytes:
    """An array's file with this header, and no value."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def of_shape(shape: str) -> bytes:
    return member(b"{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n" % shape.encode())


MEMBERS = {
    "more than an address names": of_shape("(288230376151711744,)"),
    "more than an index holds": of_shape("(1180591620717411303424,)"),
    "less than nothing": of_shape("(-5,)"),
    "no end": member(b"("),
    "no end, 9,000 times": member(b"(" * 9000),
    "a sign, 9,900 times": member(b"-" * 9900),
    "no header": b"\x93NUMPY",
}


@pytest.mark.parametrize("what", MEMBERS)
def test_a_header_that_lies_is_damage(tmp_path: Path, what: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("meta.npy", MEMBERS[what])
    with refuses(BadArtifact):
        read_arrays(tmp_path / "x.npz", hint="remove it")


@pytest.mark.parametrize("way", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_nothing_is_unpacked(tmp_path: Path, way: int) -> None:
    """A thousandth on the disk of what it is in memory."""
    write_arrays(tmp_path / "plain.npz", {"meta": np.zeros(1_000_000, np.uint8)})
    with zipfile.ZipFile(tmp_path / "plain.npz") as plain, zipfile.ZipFile(tmp_path / "x.npz", "w", way) as packed:
        packed.writestr("meta.npy", plain.read("meta.npy"))
    with refuses(BadArtifact):
        read_arrays(tmp_path / "x.npz", hint="remove it")


def test_members_that_share_their_bytes_count_each(tmp_path: Path) -> None:
    """A hundred of one member's bytes would be read as a hundred arrays."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", of_shape("(1000,)") + bytes(4000))
        shared = file.infolist()[0]
        file.filelist += [shared] * 99
    with refuses(BadArtifact):
        read_arrays(path, hint="remove it")


@pytest.mark.parametrize("bit", [0x01, 0x20])
def test_what_zipfile_does_not_read_is_damage(tmp_path: Path, bit: int) -> None:
    """Members that are encrypted, or patches of others."""
    path = tmp_path / "x.npz"
    write_arrays(path, {"meta": np.zeros(3, np.uint8)})
    raw = bytearray(path.read_bytes())
    for head, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for match in re.finditer(re.escape(head), bytes(raw)):
            raw[match.start() + flags] |= bit
    path.write_bytes(raw)
    with refuses(BadArtifact):
        read_arrays(path, hint="remove it")
