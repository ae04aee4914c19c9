"""The model's own tokenizer, through llama.cpp's vocabulary functions."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import llama_cpp

from edgellm.formats.tokenizer.kinds import TokenKind
from edgellm.formats.tokenizer.special import SpecialTokens
from edgellm_gguf.long_runs import MAX_RUN, parts

# llama.h, LLAMA_TOKEN_ATTR_*. Control tokens add nothing to the text.
_UNKNOWN, _CONTROL, _USER_DEFINED = 1 << 0, 1 << 3, 1 << 4
_NORMAL = int(TokenKind.NORMAL)  # comparing with the member takes five times as long
# Their tokens may be control tokens of the library although the file calls them normal.
_ROLES = ("bos", "eos", "eot", "sep", "pad", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")


class LlamaTokenizer:
    """See `edgellm.contract.engine.Tokenizer`."""

    def __init__(self, vocab: Any) -> None:
        self._vocab = vocab
        self._pieces: dict[int, bytes] = {}
        self._has_words = llama_cpp.llama_vocab_type(vocab) == llama_cpp.LLAMA_VOCAB_TYPE_BPE

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; lone surrogates become U+FFFD. Longer runs than `long_runs.MAX_RUN` are cut."""
        if len(text) <= MAX_RUN or not self._has_words or len(parts(text)) == 1:
            return self._ids(text, add_special=add_special, parse_special=parse_special)
        around = self._ids("", add_special=True, parse_special=False) if add_special else []
        n_before = int(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        texts = self._parsed_texts if parse_special else self._plain_texts
        return [*around[:n_before], *texts.encode(text, self._ids_of_parts), *around[n_before:]]

    def _ids_of_parts(self, text: str) -> list[int]:
        return [token for part in parts(text) for token in self._ids(part, add_special=False, parse_special=False)]

    def _ids(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        # Never more tokens than bytes, plus BOS and EOS.
        capacity = len(data) + 2
        tokens = (ctypes.c_int32 * capacity)()
        n = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, capacity, add_special, parse_special)
        if n < 0:
            capacity = -n
            tokens = (ctypes.c_int32 * capacity)()
            n = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, capacity, add_special, parse_special)
        return tokens[:n]

    @cached_property
    def _parsed_texts(self) -> SpecialTokens:
        return self._texts(_CONTROL | _UNKNOWN | _USER_DEFINED)

    @cached_property
    def _plain_texts(self) -> SpecialTokens:
        return self._texts(_USER_DEFINED)

    def _texts(self, attributes: int) -> SpecialTokens:
        """What llama.cpp looks for before it splits a text into words."""
        ids = range(llama_cpp.llama_vocab_n_tokens(self._vocab))
        asked = (token for token in ids if llama_cpp.llama_vocab_get_attr(self._vocab, token) & attributes)
        return SpecialTokens({text: token for token in asked if (text := self.text(token))})

    def token_bytes(self, token: int) -> bytes:
        """Bytes that `token` adds to the text; b"" for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            control = llama_cpp.llama_vocab_get_attr(self._vocab, token) & _CONTROL
            piece = b"" if control else self._piece(token, special=False)
            self._pieces[token] = piece
        return piece

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        """Bytes of every token, control tokens as a template writes them; and which are control tokens."""
        tokens = range(llama_cpp.llama_vocab_n_tokens(self._vocab))
        special = frozenset(t for t in tokens if llama_cpp.llama_vocab_get_attr(self._vocab, t) & _CONTROL)
        return [self._piece(token, special=True) for token in tokens], special

    def special_texts(self, kinds: Sequence[int], ends: Iterable[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Texts of control tokens, and of added ones, in the order of their ids.

        `kinds` of the file's tokens say which ids are asked about: asking for all of 262,144 takes 0.1 s and more.
        """
        asked = {token for token, kind in enumerate(kinds) if kind != _NORMAL}
        asked |= {*ends, *(getattr(llama_cpp, f"llama_vocab_{role}")(self._vocab) for role in _ROLES)}
        attributes = {t: llama_cpp.llama_vocab_get_attr(self._vocab, t) for t in sorted(asked) if t >= 0}
        control = tuple(self.text(t) for t, attribute in attributes.items() if attribute & (_CONTROL | _UNKNOWN))
        added = (t for t, attribute in attributes.items() if attribute & _USER_DEFINED and not attribute & _CONTROL)
        return control, tuple(map(self.text, added))

    def text(self, token: int) -> str:
        """The token as a template writes it, control tokens too; "" for no token (-1), and for a row that has none."""
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(256)  # of this call: several threads ask
        n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:n]
