"""A model's tokenizer: text to token ids and back, whatever file it was read from.

Made by `from_gguf.read_tokenizer` and `from_json.read_tokenizer_json`; follows `edgellm.contract.engine.Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgellm.formats.tokenizer.kinds import TokenKind

# GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}


def byte_level(text: str) -> bytes:
    """Bytes of a byte-level BPE token. One with a character outside the alphabet is plain text."""
    try:
        return bytes([BYTE_OF[char] for char in text])
    except KeyError:
        return text.encode()


def spaced(text: str) -> bytes:
    """Bytes of a SentencePiece token, which writes a space as U+2581."""
    return text.replace("\u2581", " ").encode()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token's text, as the file has it, and kind; "" where an id has no token."""

    texts: Sequence[str]
    kinds: Sequence[int]  # see `kinds.TokenKind`
    spell: Callable[[str], bytes]  # bytes of a normal token: `byte_level` or `spaced`

    def token_bytes(self, token: int) -> bytes:
        text, kind = self.texts[token], self.kinds[token]
        if kind == TokenKind.NORMAL:
            return self.spell(text)
        if kind == TokenKind.USER_DEFINED:
            return text.encode()
        return bytes([int(text[3:5], 16)]) if kind == TokenKind.BYTE else b""

    def spelled(self, tokens: Sequence[int]) -> str:
        """Without control tokens, which are no text, and ids that only the embedding table has."""
        own = (token for token in tokens if token < len(self.texts))
        return b"".join(map(self.token_bytes, own)).decode(errors="replace")


class FileTokenizer:
    """See `edgellm.contract.engine.Tokenizer`. Ids are 0 to `n_tokens` - 1; an embedding table may have more rows."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        split: Callable[[str, bool], list[int]],  # (text, parse_special) -> ids
        *,
        bos_id: int | None,
        eos_id: int | None,
        eos_ids: frozenset[int],
        prefix: tuple[int, ...] = (),
        suffix: tuple[int, ...] = (),
        chat_template: str | None = None,
        response_template: str = "",
    ) -> None:
        self.vocabulary = vocabulary
        self._split = split
        self._prefix = prefix
        self._suffix = suffix
        self._bytes: dict[int, bytes] = {}
        self.n_tokens = len(vocabulary.texts)
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.eos_ids = eos_ids  # every token that ends an answer
        self.add_bos = bool(prefix)
        self.add_eos = bool(suffix)
        self.chat_template = chat_template
        self.response_template = response_template

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; lone surrogates become U+FFFD.

        Without `parse_special` no text becomes a control token, whatever it says.
        """
        tokens = self._split(_scalars(text), parse_special) if text else []
        return [*self._prefix, *tokens, *self._suffix] if add_special else tokens

    def token_bytes(self, token: int) -> bytes:
        """Bytes that `token` adds to the text; b"" for control tokens, and for a row that has no token."""
        piece = self._bytes.get(token)
        if piece is None:
            piece = self.vocabulary.token_bytes(token) if 0 <= token < self.n_tokens else b""
            self._bytes[token] = piece
        return piece

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        """Bytes of every token, control tokens as a template writes them; and which are control tokens."""
        vocabulary = self.vocabulary
        hidden = (TokenKind.CONTROL, TokenKind.UNKNOWN)
        special = frozenset(token for token, kind in enumerate(vocabulary.kinds) if kind in hidden)
        spelled = (
            vocabulary.texts[token].encode() if token in special else vocabulary.token_bytes(token)
            for token in range(self.n_tokens)
        )
        return list(spelled), special

    def text(self, token: int | None) -> str:
        """The token as a template writes it, control tokens too; "" for no token, and for a row that has none."""
        if token is None or not 0 <= token < self.n_tokens:
            return ""
        if self.vocabulary.kinds[token] in (TokenKind.CONTROL, TokenKind.UNKNOWN):
            return self.vocabulary.texts[token]
        return self.token_bytes(token).decode("utf-8", "replace")

    @property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of control tokens, in the order of their ids."""
        return self._texts_of(TokenKind.CONTROL, TokenKind.UNKNOWN)

    @property
    def added_texts(self) -> tuple[str, ...]:
        """Texts of tokens that are shown and stand beside the ordinary ones, in the order of their ids."""
        return self._texts_of(TokenKind.USER_DEFINED)

    def _texts_of(self, *kinds: TokenKind) -> tuple[str, ...]:
        texts, kinds_of, normal = self.vocabulary.texts, self.vocabulary.kinds, int(TokenKind.NORMAL)
        # Comparing 262,144 times with members of the enumeration takes 0.1 s.
        marked = [token for token, kind in enumerate(kinds_of) if kind != normal]
        return tuple(texts[token] for token in marked if kinds_of[token] in kinds)

    @property
    def bos_text(self) -> str:
        return self.text(self.bos_id)

    @property
    def eos_text(self) -> str:
        return self.text(self.eos_id)


def _scalars(text: str) -> str:
    """`text` without surrogates: pairs become their character, lone ones U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
