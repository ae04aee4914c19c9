"""What an answer cost, as OpenAI's API tells it. `timings` is an extension."""

from __future__ import annotations

import msgspec

from edgellm.types import event
from edgellm.types.sampling_defaults import SamplingPart


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int  # reused from an earlier request


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
