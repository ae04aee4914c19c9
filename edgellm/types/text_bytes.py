"""How long a text is before it is cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence

_BLANKS = bytes(range(0x21)) + b"\x7f"
_WIDE_BLANK = "\u3000".encode()  # of Chinese and Japanese
FREE_BLANKS = 1024**2  # bytes of them that count for nothing: they take as long to be cut as other text


def too_many_bytes(texts: Sequence[str], most: int) -> int:
    """Bytes of the texts that count, where they are more than `most`; else 0."""
    whole = sum(map(utf8_length, texts))
    if whole <= most:
        return 0
    inked = sum(map(inked_bytes, texts))
    n_bytes = max(inked, whole - FREE_BLANKS)
    return n_bytes if n_bytes > most else 0


def inked_bytes(text: str) -> int:
    """Bytes besides blanks and control characters: WordPiece drops them, and SentencePiece may make one of many."""
    return len(text.encode(errors="replace").translate(None, _BLANKS).replace(_WIDE_BLANK, b""))


def utf8_length(text: str) -> int:
    # Lone surrogates are refused later, with all else that cannot be sent.
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
