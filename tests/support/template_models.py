"""A model without weights for a chat template: a real vocabulary, and a token for each text that looks like markup.

Template and vocabulary of a model belong together, and the package has them apart.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from edgellm.contract.engine import EngineInfo
from edgellm.errors import BadTemplate
from edgellm.formats.gguf.reader import read_header
from edgellm.formats.tokenizer.from_gguf import read_tokenizer
from edgellm.formats.tokenizer.kinds import END_NAMES
from edgellm.formats.tokenizer.special import SpecialTokens
from edgellm.formats.tokenizer.tokenizer import FileTokenizer
from edgellm.text.prompt import PromptBuilder
from edgellm.types.message import Message

BOS, EOS = "<s>", "</s>"
_MARKUP = re.compile(
    r"<\|[^|<>]{1,40}\|>|</?[a-z_:]{2,24}>|\[/?[A-Z_]{3,24}\]|<｜[^｜<>]{1,40}｜>|<\|[a-z_]+>|<[a-z_]+\|>|<SPECIAL_\d+>"
)
_ENDS = END_NAMES | {"<|END_OF_TURN_TOKEN|>"}  # which Cohere's files name as theirs


class Bytes:
    """A token a byte, and one for two line feeds: words that join what stands beside each other."""

    n_tokens = 257

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        parts = text.encode("utf-8", "replace").split(b"\n\n")
        return [token for at, part in enumerate(parts) for token in ([256] * (at > 0) + [*part])]

    def token_bytes(self, token: int) -> bytes:
        return b"\n\n" if token == 256 else bytes([token])

    def text(self, token: int) -> str:
        return self.token_bytes(token).decode("utf-8", "replace")

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        return [self.token_bytes(token) for token in range(self.n_tokens)], frozenset()


class TemplateTokenizer:
    """See `edgellm.contract.engine.Tokenizer`."""

    def __init__(self, words: FileTokenizer | Bytes, specials: list[str]) -> None:
        self._words = words
        self.specials = {text: words.n_tokens + number for number, text in enumerate(specials)}
        self._texts = {token: text for text, token in self.specials.items()}
        self._finder = SpecialTokens(self.specials)
        self.vocab_size = words.n_tokens + len(specials)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        def plain(part: str) -> list[int]:
            return self._words.encode(part, add_special=False, parse_special=False)

        tokens = self._finder.encode(text, plain) if parse_special else plain(text)
        return [self.specials[BOS], *tokens] if add_special else tokens

    def token_bytes(self, token: int) -> bytes:
        return b"" if token in self._texts else self._words.token_bytes(token)

    def text(self, token: int) -> str:
        return self._texts.get(token) or self._words.text(token)

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        plain, special = self._words.pieces()
        return [*plain, *(text.encode() for text in self.specials)], special | self._texts.keys()


def words_of(vocabulary: Path) -> FileTokenizer:
    return read_tokenizer(read_header(str(vocabulary)))


def template_model(source: str, words: FileTokenizer | Bytes) -> tuple[EngineInfo, TemplateTokenizer]:
    """Tokens end answers by their names; where the template writes none of these, the last behind an answer does."""
    specials = list(dict.fromkeys([BOS, EOS, *_MARKUP.findall(source)]))
    tokenizer = TemplateTokenizer(words, specials)
    ends = {text for text in _ENDS if text in specials}
    if {"<|return|>", "<|call|>"} <= ends:
        ends.discard("<|end|>")
    info = EngineInfo(
        n_slots=1,
        n_ctx=8192,
        max_batch_tokens=64,
        max_logits=64,
        vocab_size=tokenizer.vocab_size,
        eos_ids=frozenset(tokenizer.specials[text] for text in ends),
        add_bos=True,
        bos_text=BOS,
        eos_text=EOS,
        chat_template=source,
        special_texts=tuple(specials),
    )
    behind = _MARKUP.findall(_behind_answers(info))
    if behind and not ends & {*behind}:
        return replace(info, eos_ids=info.eos_ids | {tokenizer.specials[behind[-1]]}, eos_text=behind[-1]), tokenizer
    return info, tokenizer


def _behind_answers(info: EngineInfo) -> str:
    chat = [Message("user", "Hi"), Message("assistant", "pl0answer")]
    try:
        return PromptBuilder(info).build(chat, add_generation_prompt=False).text.rpartition("pl0answer")[2]
    except BadTemplate:
        return ""
