"""Events of a running request, in order: any number of `Delta`, then one `Done`; errors are raised instead.

A request to embed or to rerank has one event, `Vectors`. The same structs cross the wire between worker and parent.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edgellm.types.logprob import TokenLogprob
from edgellm.types.sampling_defaults import SamplingPart

FinishReason = Literal["stop", "length", "cancelled"]


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, reused from an earlier request


class Timings(msgspec.Struct, frozen=True):
    """Seconds, measured in the worker, and what the answer was drawn by."""

    queued_s: float
    prefill_s: float
    decode_s: float
    sampling: tuple[SamplingPart, ...] = ()  # each value with the row that it is from

    def decode_tok_s(self, completion_tokens: int) -> float:
        """Rate over the tokens after the first, which prefill brought."""
        return (completion_tokens - 1) / self.decode_s if self.decode_s > 0 and completion_tokens > 1 else 0.0


class Delta(msgspec.Struct, frozen=True, tag=True):
    """New text: whole characters, no part of a stop string. `n_tokens` were generated since the previous delta."""

    text: str
    n_tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()  # of these tokens, where the request asked for them


class Done(msgspec.Struct, frozen=True, tag=True):
    """The end. `finish_reason` is "stop" at the model's own end or before a stop text, "length" where `max_tokens` or a
    full context cut it, and "cancelled" where the model was closed meanwhile."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Event = Delta | Done


class Vectors(msgspec.Struct, frozen=True, tag=True):
    """`n` rows of float32, little-endian, in the order of the inputs: embeddings, or scores (one number a row)."""

    data: bytes
    n: int
    usage: Usage
    timings: Timings


class Completion(msgspec.Struct, frozen=True):
    """A whole answer."""

    text: str
    finish_reason: FinishReason  # "stop" or "length": closed meanwhile, it raises Closed
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] = ()  # of each token, where the request asked for them
