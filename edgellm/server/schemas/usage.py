"""What an answer cost, as OpenAI's API tells it. `timings` is an extension."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from edgellm.types import event
from edgellm.types.sampling_defaults import SamplingPart


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int  # reused from an earlier request
    cache_write_tokens: int = 0  # nothing is billed for it


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int
    accepted_prediction_tokens: int = 0  # nothing is predicted
    rejected_prediction_tokens: int = 0


class CompletionUsage(msgspec.Struct, frozen=True):
    """Of all answers; a prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, usage: event.Usage) -> CompletionUsage:
        return cls(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens + usage.completion_tokens,
            PromptTokensDetails(usage.cached_tokens),
            CompletionTokensDetails(usage.reasoning_tokens),
        )


class TokenTimings(msgspec.Struct, frozen=True):
    """Extension. Milliseconds and tokens per second; 0 where nothing was measured.

    From `cache_n` on they have the names of llama-server: tokens of the prompt that an earlier request had computed,
    tokens of the prompt that were computed, and tokens of the answer.
    """

    prefill_ms: float
    decode_ms: float
    prefill_tok_s: float
    decode_tok_s: float
    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float
    prompt_per_token_ms: float
    predicted_per_token_ms: float  # after the first token, which the prompt brought

    @classmethod
    def of(cls, timings: event.Timings, usage: event.Usage) -> Self:
        computed, steps = usage.prompt_tokens - usage.cached_tokens, timings.decoded(usage.completion_tokens)
        prefill_ms, decode_ms = round(1e3 * timings.prefill_s, 3), round(1e3 * timings.decode_s, 3)
        prefill = round(computed / timings.prefill_s if timings.prefill_s > 0 else 0.0, 2)
        decode = round(timings.decode_tok_s(usage.completion_tokens), 2)
        return cls(
            prefill_ms=prefill_ms,
            decode_ms=decode_ms,
            prefill_tok_s=prefill,
            decode_tok_s=decode,
            cache_n=usage.cached_tokens,
            prompt_n=computed,
            prompt_ms=prefill_ms,
            prompt_per_second=prefill,
            predicted_n=usage.completion_tokens,
            predicted_ms=decode_ms,
            predicted_per_second=1e3 * steps / decode_ms if decode_ms > 0 else 0.0,
            prompt_per_token_ms=prefill_ms / computed if computed else 0.0,
            predicted_per_token_ms=decode_ms / steps if steps else 0.0,
            **cls._beside(timings),
        )

    @classmethod
    def _beside(cls, timings: event.Timings) -> dict[str, Any]:
        return {}


class PromptProgress(msgspec.Struct, frozen=True):
    """Extension. How many tokens of a prompt have been read, in llama-server's names."""

    total: int
    cache: int
    processed: int
    time_ms: float

    @classmethod
    def of(cls, prefill: event.Prefill) -> Self:
        return cls(prefill.total, prefill.cached, prefill.processed, round(1e3 * prefill.seconds, 3))


class CompletionTimings(TokenTimings, frozen=True, kw_only=True):
    """Extension. Those of a whole answer, measured beside the model.

    `queued_ms`: until it had a place. `sampling`: what it was drawn by, each value with the row that it is from.
    """

    queued_ms: float
    sampling: tuple[SamplingPart, ...] = ()

    @classmethod
    def _beside(cls, timings: event.Timings) -> dict[str, Any]:
        return {"queued_ms": round(1e3 * timings.queued_s, 3), "sampling": timings.sampling}
