"""Text that shows what was forgotten comes in pieces of some size, and one ships."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.refusals import refuses

from edgellm.adaptation.general_text import MOST_CHARS, MOST_PIECES, general_pieces, pieces_of
from edgellm.errors import UsageError


def test_the_one_that_ships_has_pieces_of_many_kinds() -> None:
    pieces = general_pieces(None)

    assert len(pieces) == 16
    assert all(400 <= len(piece) < 800 for piece in pieces)
    assert any("return means" in piece for piece in pieces), "code stays in one piece"


def test_short_paragraphs_are_joined_and_long_ones_cut() -> None:
    assert pieces_of("a" * 250 + "\n\n" + "b" * 250 + "\r\n\r\n" + "c" * 399) == ["a" * 250 + "\n\n" + "b" * 250]
    assert pieces_of("d" * 5000) == ["d" * MOST_CHARS]
    assert len(pieces_of("\n\n".join(["e" * 400] * 100))) == MOST_PIECES


@pytest.mark.parametrize("content", [b"", b"\xff" * 1000, b"a" * 1000])
def test_a_file_that_tells_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.txt").write_bytes(content)

    with refuses(UsageError, param="general"):
        general_pieces(str(tmp_path / "text.txt"))
