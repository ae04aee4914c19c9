"""The keys `tokenizer.ggml.*` of a GGUF header, each checked to be what it has to be."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from edgellm.errors import BadArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.cursor import short
from edgellm.formats.gguf.reader import GgufHeader, LongArray
from edgellm.formats.gguf.vocabulary import check_lengths
from edgellm.formats.tokenizer.kinds import TokenKind
from edgellm.formats.tokenizer.special import MAX_CHARS

_NONE = (2**32 - 1, -1)  # as converters write "no such token"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_ROLES = {
    **{role: (f"{role}_token_id",) for role in ("bos", "eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")},
    "unk": ("unknown_token_id",),
    "fim_pre": ("fim_pre_token_id", "prefix_token_id"),
    "fim_suf": ("fim_suf_token_id", "suffix_token_id"),
    "fim_mid": ("fim_mid_token_id", "middle_token_id"),
}


@dataclass(frozen=True, slots=True)
class Entries:
    """A vocabulary as the file lists it."""

    texts: list[str]  # by id; "" where an id has no token
    kinds: list[int]  # by id; see `kinds.TokenKind`
    ids: dict[str, int]
    roles: dict[str, int]  # "bos", "eos", ... of those that the file names


class TokenizerKeys:
    """Reads one key at a time.

    Raises:
        BadArtifact: the key, what it is and what it should be.
    """

    def __init__(self, header: GgufHeader) -> None:
        check_lengths(header)
        self.header = header

    def fail(self, name: str, why: str) -> NoReturn:
        raise BadArtifact.damaged(
            f"{self.header.where}: key tokenizer.ggml.{name} {why}", remedy="fetch or convert it again"
        )

    def text(self, name: str) -> str | None:
        value = self.header.metadata.get(f"tokenizer.ggml.{name}")
        if value is not None and not isinstance(value, str):
            self.fail(name, f"is not text but {short(value)}")
        return value or None

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.header.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool):
            self.fail(name, f"is not a bool but {short(value)}")
        return value

    def entries(self, defaults: dict[str, int]) -> Entries:
        """Tokens with their kinds and roles. Texts are unique. `defaults`: roles that the file does not name."""
        texts = self.tokens()
        ids = {text: token for token, text in enumerate(texts) if text}
        if len(ids) != len(texts) - texts.count(""):
            twice = next(text for token, text in enumerate(texts) if text and ids[text] != token)
            self.fail("tokens", f"has {twice[:40]!r} twice")
        roles = {role: token for role, token in defaults.items() if token < len(texts)}
        return Entries(texts, self.kinds(texts), ids, roles | self.roles(len(texts)))

    def tokens(self) -> list[str]:
        """Every token's text, at least one."""
        texts = self._strings("tokens")
        if not texts:
            self.fail("tokens", "is missing or empty")
        return texts

    def kinds(self, texts: list[str]) -> list[int]:
        """Kind of each token; all normal where the file does not say."""
        kinds = self._numbers("token_type", ("int32", "uint32", "int8", "uint8"))
        if kinds is None:
            return [TokenKind.NORMAL] * len(texts)
        for token in (token for token, kind in enumerate(kinds) if kind != TokenKind.NORMAL):
            text = texts[token]
            if kinds[token] == TokenKind.BYTE and not _BYTE.fullmatch(text):
                self.fail("tokens", f"has {text[:40]!r} as byte token {token}, which is not written <0xNN>")
            if len(text) > MAX_CHARS:
                self.fail("tokens", f"has a special token {token} of {len(text)} characters, {MAX_CHARS} are allowed")
        return list(kinds)

    def scores(self) -> tuple[float, ...]:
        scores = self._numbers("scores", ("float32", "int32"))
        if scores is None:
            self.fail("scores", "is missing, and a SentencePiece vocabulary is ranked by it")
        if any(map(math.isnan, scores)):
            self.fail("scores", "holds NaN")
        return scores

    def merges(self) -> list[tuple[str, str]]:
        """Pairs in their order; one that comes twice counts where it comes first."""
        lines = dict.fromkeys(self._strings("merges"))
        if not lines:
            self.fail("merges", "is missing or empty")
        pairs = [tuple(line.split(" ")) for line in lines]
        if set(map(len, pairs)) != {2} or not all(map(all, pairs)):
            wrong = next(line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2 or not all(pair))
            self.fail("merges", f"has {wrong[:40]!r}, which is not a pair of tokens")
        return cast("list[tuple[str, str]]", pairs)

    def roles(self, n_tokens: int) -> dict[str, int]:
        """Token ids by role, of those that the file names."""
        roles: dict[str, int] = {}
        for role, names in _ROLES.items():
            for name in names:
                value = self.header.metadata.get(f"tokenizer.ggml.{name}", -1)
                if type(value) is not int or not (0 <= value < n_tokens or value in _NONE):
                    self.fail(name, f"is {short(value)}, tokens are 0 to {n_tokens - 1}")
                if value not in _NONE:
                    roles[role] = value
        return roles

    def padding(self, n_tokens: int) -> int | None:
        """The token that fills up batches, where the file names one."""
        value = self.header.metadata.get("tokenizer.ggml.padding_token_id", -1)
        return value if isinstance(value, int) and 0 <= value < n_tokens else None

    def _strings(self, name: str) -> list[str]:
        key = f"tokenizer.ggml.{name}"
        value = self.header.metadata.get(key, ())
        kind = value.type if isinstance(value, LongArray) else "string"
        if kind != "string" or not isinstance(value, (tuple, LongArray)):
            self.fail(name, f"is not a list of texts but {short(value)}")
        texts = reader.read_array(self.header, key) if value else ()
        try:
            return [text if type(text) is str else text.decode() for text in texts]
        except UnicodeDecodeError as error:
            self.fail(name, f"is not UTF-8: {error.object[:40]!r}")
        except AttributeError:
            self.fail(name, f"is not a list of texts but {short(value)}")

    def _numbers(self, name: str, types: tuple[str, ...]) -> tuple[Any, ...] | None:
        key = f"tokenizer.ggml.{name}"
        value = self.header.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, (tuple, LongArray)) or (isinstance(value, LongArray) and value.type not in types):
            self.fail(name, f"is not a list of numbers ({' or '.join(types)}) but {short(value)}")
        numbers = reader.read_array(self.header, key)
        if any(isinstance(number, (str, bool)) for number in numbers):
            self.fail(name, f"is not a list of numbers but {short(value)}")
        return numbers
