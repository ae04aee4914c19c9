"""A backend's tokenizer, whose mistakes are errors of the backend and not of who asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm.runtime.engine_check import check_piece, check_pieces, check_text, check_tokens

if TYPE_CHECKING:
    from edgellm.contract.engine import Tokenizer


class CheckedTokenizer:
    """See `edgellm.contract.engine.Tokenizer`. Each method raises BackendError where the tokenizer gives anything else
    than the contract says."""

    def __init__(self, tokenizer: Tokenizer, backend: str, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._backend = backend
        self._vocab_size = vocab_size

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokens = self._tokenizer.encode(text, add_special=add_special, parse_special=parse_special)
        return check_tokens(self._backend, text, tokens, self._vocab_size)

    def token_bytes(self, token: int) -> bytes:
        return check_piece(self._backend, token, self._tokenizer.token_bytes(token))

    def text(self, token: int) -> str:
        return check_text(self._backend, token, self._tokenizer.text(token))

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        return check_pieces(self._backend, self._tokenizer.pieces(), self._vocab_size)
