"""Logprobs as OpenAI's API tells them: one form of chat, one of plain completions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edgellm.types.logprob import Alternative, TokenLogprob


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that might have come. `token` may have U+FFFD for a part of a character; `bytes` is exact."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(msgspec.Struct, frozen=True):
    """A token of the answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """One for each token."""

    content: list[ContentLogprob]
    refusal: None = None

    @classmethod
    def of(cls, logprobs: Iterable[TokenLogprob]) -> ChatLogprobs:
        return cls([_content(token) for token in logprobs])


class TextLogprobs(msgspec.Struct, frozen=True):
    """Of /v1/completions: four lists, an entry for each token. Nothing tells how likely the first of a prompt is."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]  # characters before it, of the text of all tokens

    @classmethod
    def of(cls, logprobs: Iterable[TokenLogprob], offset: int = 0, *, begins: bool = False) -> TextLogprobs:
        """`offset`: characters of the tokens before. `begins`: the first is that of a prompt."""
        made = cls([], [], [], [])
        for token in logprobs:
            text = _text(token.chosen)
            top = {_text(other): other.logprob for other in reversed((token.chosen, *token.top))}
            is_first = begins and not made.tokens
            made.tokens.append(text)
            made.token_logprobs.append(None if is_first else token.chosen.logprob)
            made.top_logprobs.append(None if is_first else top)
            made.text_offset.append(offset)
            offset += len(text)
        return made


def _content(token: TokenLogprob) -> ContentLogprob:
    chosen = token.chosen
    top = [TopLogprob(_text(other), other.logprob, list(other.piece)) for other in token.top]
    return ContentLogprob(_text(chosen), chosen.logprob, list(chosen.piece), top)


def _text(alternative: Alternative) -> str:
    return alternative.piece.decode("utf-8", "replace")
