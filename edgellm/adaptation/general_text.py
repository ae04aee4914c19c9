"""General text, which shows what a tuned model has forgotten: one that ships, or any other.

`general.txt` was written for this purpose in November 2026 and has the licence of the package: sixteen pieces of plain
English of different kinds (stories, a recipe, news, a letter, code, ...).
"""

from __future__ import annotations

from pathlib import Path

from edgellm.errors import UsageError
from edgellm.files import package_data, read_regular

NONE = "none"  # in place of a file: no such check is wanted
LEAST_CHARS, MOST_CHARS = 400, 4000  # of a piece
MOST_PIECES = 64
_MAX_BYTES = 4 * 1024**2
_PARAM = "general"


def general_pieces(path: str | None) -> list[str]:
    """Pieces of the text at `path`, of the one that ships where it is None. Paragraphs that are short are joined.

    Raises:
        UsageError: it cannot be read, is no UTF-8 or has less than two pieces.
    """
    if path == NONE:
        return []
    if path is None:
        return pieces_of(package_data("edgellm.adaptation", "general.txt").decode())
    try:
        pieces = pieces_of(read_regular(Path(path), _MAX_BYTES).decode())
    except OSError as error:
        raise _unusable(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _unusable(f"{path}: byte {error.start} is no UTF-8") from None
    if len(pieces) < 2:
        raise _unusable(f"{path} has less than two pieces of {LEAST_CHARS} characters")
    return pieces


def _unusable(what: str) -> UsageError:
    return UsageError(what, hint=f"name a plain text of some pages, or {NONE}", param=_PARAM)


def pieces_of(text: str) -> list[str]:
    """Of some hundred characters each, from its beginning on; a rest that is too short is left out."""
    pieces: list[str] = []
    piece = ""
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        piece = f"{piece}\n\n{paragraph.strip(chr(10))}".strip("\n")
        if len(piece.strip()) >= LEAST_CHARS:
            pieces.append(piece[:MOST_CHARS])
            piece = ""
        if len(pieces) == MOST_PIECES:
            break
    return pieces
