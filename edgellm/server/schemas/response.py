"""Response bodies of the OpenAI dialect, as they are sent and as /docs shows them. `timings` is an extension."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edgellm.types import event
from edgellm.types.logprob import Alternative, TokenLogprob
from edgellm.types.sampling_defaults import SamplingPart


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int  # reused from an earlier request


class CompletionUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, usage: event.Usage) -> CompletionUsage:
        total = usage.prompt_tokens + usage.completion_tokens
        return cls(usage.prompt_tokens, usage.completion_tokens, total, PromptTokensDetails(usage.cached_tokens))


class CompletionTimings(msgspec.Struct, frozen=True):
    """Extension. Milliseconds and tokens per second, measured beside the model; 0 where nothing was measured.

    `sampling`: what the answer was drawn by, each value with the row that it is from.
    """

    queued_ms: float
    prefill_ms: float
    decode_ms: float
    prefill_tok_s: float
    decode_tok_s: float
    sampling: tuple[SamplingPart, ...] = ()

    @classmethod
    def of(cls, timings: event.Timings, usage: event.Usage) -> CompletionTimings:
        computed = usage.prompt_tokens - usage.cached_tokens
        prefill = computed / timings.prefill_s if timings.prefill_s > 0 else 0.0
        decode = timings.decode_tok_s(usage.completion_tokens)
        return cls(
            queued_ms=round(1e3 * timings.queued_s, 3),
            prefill_ms=round(1e3 * timings.prefill_s, 3),
            decode_ms=round(1e3 * timings.decode_s, 3),
            prefill_tok_s=round(prefill, 2),
            decode_tok_s=round(decode, 2),
            sampling=timings.sampling,
        )


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
    """Of /v1/completions: four lists, an entry for each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]  # characters before it, of the text of all tokens

    @classmethod
    def of(cls, logprobs: Iterable[TokenLogprob], offset: int = 0) -> TextLogprobs:
        """`offset`: characters of the tokens before."""
        made = cls([], [], [], [])
        for token in logprobs:
            text = _text(token.chosen)
            made.tokens.append(text)
            made.token_logprobs.append(token.chosen.logprob)
            made.top_logprobs.append({_text(other): other.logprob for other in reversed((token.chosen, *token.top))})
            made.text_offset.append(offset)
            offset += len(text)
        return made


def _content(token: TokenLogprob) -> ContentLogprob:
    chosen = token.chosen
    top = [TopLogprob(_text(other), other.logprob, list(other.piece)) for other in token.top]
    return ContentLogprob(_text(chosen), chosen.logprob, list(chosen.piece), top)


def _text(alternative: Alternative) -> str:
    return alternative.piece.decode("utf-8", "replace")


class AnswerMessage(msgspec.Struct, frozen=True):
    role: str
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: AnswerMessage
    finish_reason: str  # "stop" or "length"
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    timings: CompletionTimings


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    finish_reason: str
    logprobs: TextLogprobs | None = None


class TextCompletion(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage
    timings: CompletionTimings


class ReadUsage(msgspec.Struct, frozen=True):
    """Of requests that generate no text."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True):
    object: str
    index: int
    embedding: list[float] | str  # str: base64 of float32, little-endian


class EmbeddingList(msgspec.Struct, frozen=True):
    object: str
    data: list[Embedding]
    model: str
    usage: ReadUsage


class Document(msgspec.Struct, frozen=True):
    text: str


class Ranked(msgspec.Struct, frozen=True):
    index: int  # of the document in the request
    relevance_score: float  # on the model's own scale
    document: Document | None = None


class Ranking(msgspec.Struct, frozen=True):
    model: str
    object: str
    results: list[Ranked]  # the best first
    usage: ReadUsage


class Model(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    owned_by: str


class ModelList(msgspec.Struct, frozen=True):
    object: str
    data: list[Model]


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(msgspec.Struct, frozen=True):
    error: ErrorDetail


class Health(msgspec.Struct, frozen=True):
    status: str  # "ok", "loading", "hung", "reloading", "failed" or "closed"
    reason: str = ""  # what ended the model
