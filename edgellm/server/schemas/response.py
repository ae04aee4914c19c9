"""Answer bodies of the OpenAI face, as they are written and as /docs shows them. `timings` is ours."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.types import event


@dataclass(frozen=True, slots=True)
class PromptTokensDetails:
    cached_tokens: int  # taken over from an earlier request


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, usage: event.Usage) -> Usage:
        total = usage.prompt_tokens + usage.completion_tokens
        return cls(usage.prompt_tokens, usage.completion_tokens, total, PromptTokensDetails(usage.cached_tokens))


@dataclass(frozen=True, slots=True)
class Timings:
    """Extension. Milliseconds and tokens per second, measured beside the model; 0 where nothing was measured."""

    queued_ms: float
    prefill_ms: float
    decode_ms: float
    prefill_tok_s: float
    decode_tok_s: float

    @classmethod
    def of(cls, timings: event.Timings, usage: event.Usage) -> Timings:
        computed = usage.prompt_tokens - usage.cached_tokens
        prefill = computed / timings.prefill_s if timings.prefill_s > 0 else 0.0
        decode = timings.decode_tok_s(usage.completion_tokens)
        return cls(
            queued_ms=round(1e3 * timings.queued_s, 3),
            prefill_ms=round(1e3 * timings.prefill_s, 3),
            decode_ms=round(1e3 * timings.decode_s, 3),
            prefill_tok_s=round(prefill, 2),
            decode_tok_s=round(decode, 2),
        )


@dataclass(frozen=True, slots=True)
class AnswerMessage:
    role: str
    content: str
    refusal: None = None


@dataclass(frozen=True, slots=True)
class ChatChoice:
    index: int
    message: AnswerMessage
    finish_reason: str  # "stop" or "length"
    logprobs: None = None


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class TextChoice:
    index: int
    text: str
    finish_reason: str
    logprobs: None = None


@dataclass(frozen=True, slots=True)
class TextCompletion:
    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class ReadUsage:
    """Of what only reads."""

    prompt_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Embedding:
    object: str
    index: int
    embedding: list[float] | str  # str: base64 of float32, little-endian


@dataclass(frozen=True, slots=True)
class EmbeddingList:
    object: str
    data: list[Embedding]
    model: str
    usage: ReadUsage


@dataclass(frozen=True, slots=True)
class Document:
    text: str


@dataclass(frozen=True, slots=True)
class Ranked:
    index: int  # of the document in the request
    relevance_score: float  # on the model's own scale
    document: Document | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    model: str
    object: str
    results: list[Ranked]  # the best first
    usage: ReadUsage


@dataclass(frozen=True, slots=True)
class Model:
    id: str
    object: str
    created: int
    owned_by: str


@dataclass(frozen=True, slots=True)
class ModelList:
    object: str
    data: list[Model]


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    message: str
    type: str
    param: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class Error:
    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class Health:
    status: str  # "ok", "loading", "failed" or "closed"
    reason: str = ""  # why it failed
