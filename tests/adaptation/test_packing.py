"""Rows hold every document once and whole; their file comes back as it was, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import toy_trainer
from support.refusals import refuses

from edgellm.adaptation.packed import Packed, read, write
from edgellm.adaptation.packing import one_each, pack
from edgellm.errors import BadArtifact


def documents(packed: Packed) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    out = []
    for begin, end in zip(packed.starts, packed.starts[1:], strict=False):
        for number in np.unique(packed.documents[begin:end]):
            own = packed.documents[begin:end] == number
            out.append((tuple(packed.tokens[begin:end][own]), tuple(packed.supervised[begin:end][own])))
    return out


def test_every_document_is_in_one_row_and_rows_are_full() -> None:
    examples = toy_trainer.examples(500)
    packed = pack(examples, 16)

    given = sorted((tuple(example.tokens), tuple(example.supervised)) for example in examples)
    assert sorted(documents(packed)) == given
    assert packed.size.longest <= 16
    assert packed.size.n_tokens / (packed.size.n_rows * 16) > 0.98
    assert packed.size.n_supervised == sum(example.n_supervised for example in examples)
    assert packed.size.most_supervised == max(
        packed.supervised[begin:end].sum() for begin, end in zip(packed.starts, packed.starts[1:], strict=False)
    )


def test_a_batch_is_padded_and_positions_begin_anew_in_each_document() -> None:
    packed = pack(toy_trainer.examples(40), 12)
    batch = packed.batch([3, 0])

    assert batch.tokens.shape == batch.positions.shape == (2, max(np.diff(packed.starts)[[3, 0]]))
    for at, row in enumerate((3, 0)):
        own = slice(packed.starts[row], packed.starts[row + 1])
        length = own.stop - own.start
        np.testing.assert_array_equal(batch.tokens[at, :length], packed.tokens[own])
        np.testing.assert_array_equal(batch.documents[at, :length], packed.documents[own])
        assert not batch.documents[at, length:].any()
        assert not batch.supervised[at, length:].any()
        for number in np.unique(packed.documents[own]):
            places = batch.positions[at][batch.documents[at] == number]
            np.testing.assert_array_equal(places, np.arange(len(places)))


def test_documents_that_are_scored_have_rows_of_their_own() -> None:
    examples = toy_trainer.examples(9)
    packed = one_each(examples)

    assert documents(packed) == [(tuple(example.tokens), tuple(example.supervised)) for example in examples]
    assert packed.n_rows == 9


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, pack(toy_trainer.examples(60), 16))

    raw = [(tmp_path / name).read_bytes() for name in ("a", "b")]
    assert raw[0] == raw[1]
    assert read(tmp_path / "a").sha256 == pack(toy_trainer.examples(60), 16).sha256
    assert read(tmp_path / "a").sha256 != pack(toy_trainer.examples(61), 16).sha256


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": np.array([1, 2, 3], np.int32)},
        {"tokens": np.array([-1, 2, 3, 4, 5, 6], np.int32)},
        {"tokens": np.array([1.0, 2, 3, 4, 5, 6])},
        {"supervised": np.zeros(6, np.bool_)},
        {"documents": np.zeros(6, np.int32)},
        {"starts": np.array([0, 3, 9], np.int64)},
        {"starts": np.array([0, 4, 3, 6], np.int64)},
        {"starts": np.array([0], np.int64)},
        {"tokens": np.array([None] * 6, object)},
        {"tokens": None},
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, np.ndarray | None]) -> None:
    arrays = {
        "tokens": np.arange(6, dtype=np.int32),
        "supervised": np.ones(6, np.bool_),
        "documents": np.ones(6, np.int32),
        "starts": np.array([0, 3, 6], np.int64),
    }
    place = tmp_path / "rows.npz"
    np.savez(place, **arrays)
    assert read(place).n_rows == 2
    np.savez(place, **{name: array for name, array in (arrays | change).items() if array is not None})

    with refuses(BadArtifact):
        read(place)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00", None])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    place = tmp_path / "rows.npz"
    if content is not None:
        place.write_bytes(content)

    with refuses(BadArtifact, varies="cannot be read: .*"):
        read(place)
