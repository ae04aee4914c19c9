"""A file may be as long as what is in it, and its padding."""

import hashlib
import mmap
import os
from dataclasses import replace

import pytest
from attacks.gguf.hostile_adapters import SOUND
from support import gguf_writer as w
from support.refusals import refuses

from edgellm.errors import BadArtifact
from edgellm.formats.gguf import adapter, reader
from edgellm.formats.gguf.imatrix import read_imatrix
from edgellm.formats.mapped import sha256_of
from edgellm.formats.slack import PADDING_BYTES, check_slack, covered

IMATRIX = w.Gguf(
    [("general.type", w.STRING, "imatrix")],
    [w.Tensor("x.in_sum2", (4, 1), w.F32, 16), w.Tensor("x.counts", (1, 1), w.F32, 4)],
)
HOLE = 4 * 10**12  # bytes; it takes none of the disk


@pytest.mark.parametrize(
    ("spans", "n_bytes"),
    [
        ([], 0),
        ([(4, 8)], 4),
        ([(8, 12), (0, 4)], 8),
        ([(0, 8), (4, 12)], 12),
        ([(0, 12), (4, 8)], 12),
        ([(0, 4), (0, 4)], 4),
    ],
    ids=["none", "one", "apart", "overlapping", "within", "twice"],
)
def test_bytes_that_several_hold_count_once(spans, n_bytes):
    assert covered(spans) == n_bytes


def test_padding_behind_each_piece_and_at_the_end_is_no_hole():
    check_slack("x", 100 + 3 * PADDING_BYTES, 100, 2)
    with refuses(BadArtifact):
        check_slack("x", 101 + 3 * PADDING_BYTES, 100, 2)
    check_slack("x", 101 + 3 * PADDING_BYTES, 100, 2, unused_bytes=1)


def with_hole(path):
    os.truncate(path, HOLE)
    return path


@pytest.mark.parametrize(
    ("file", "read"),
    [
        (w.model(), reader.read_model),
        (SOUND, adapter.read),
        (IMATRIX, read_imatrix),
    ],
    ids=["model", "adapter", "imatrix"],
)
def test_a_gguf_file_with_a_hole_behind_its_tensors_is_refused(tmp_path, file, read):
    read(path := file.write(tmp_path / "x.gguf"))
    with refuses(BadArtifact):
        read(with_hole(path))


def test_a_gguf_file_with_a_hole_between_its_tensors_is_refused(tmp_path):
    model = w.model()
    last = replace(model.tensors[-1], offset=HOLE)
    path = replace(model, tensors=[*model.tensors[:-1], last]).write(tmp_path / "x.gguf")
    os.truncate(path, path.stat().st_size + HOLE + 2**20)

    with refuses(BadArtifact):
        reader.read_header(path)


def test_the_largest_alignment_is_no_hole(tmp_path):
    model = w.model()
    aligned = replace(model, keys=[*model.keys, ("general.alignment", w.UINT32, 65_536)], alignment=65_536)
    path = aligned.write(tmp_path / "x.gguf")
    os.truncate(path, -(-path.stat().st_size // 65_536) * 65_536)

    assert reader.read_header(path).alignment == 65_536


class Watched(mmap.mmap):
    """Says how long the pieces were that it was asked for."""

    def __getitem__(self, which):
        piece = super().__getitem__(which)
        self.longest = max(getattr(self, "longest", 0), len(piece))
        return piece


def test_a_file_is_hashed_in_pieces_as_native_code_lets_no_signal_in(tmp_path):
    content = os.urandom(3 * 2**20 + 5)
    (tmp_path / "x").write_bytes(content)
    with open(tmp_path / "x", "rb") as file, Watched(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert sha256_of(view) == hashlib.sha256(content).hexdigest()
        assert view.longest == 2**20
