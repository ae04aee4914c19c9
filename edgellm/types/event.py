"""What a running request says, in order: any number of `Delta`, then one `Done`; errors are raised instead.

A request to embed or to rerank says one thing, `Vectors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, taken over from an earlier request


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, measured in the worker."""

    queued_s: float
    prefill_s: float
    decode_s: float

    def decode_tok_s(self, completion_tokens: int) -> float:
        """Rate over the tokens after the first, which prefill brought."""
        return (completion_tokens - 1) / self.decode_s if self.decode_s > 0 and completion_tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, whole characters only, never a part of a stop string; `n_tokens` were generated since the last one."""

    text: str
    n_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Done:
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Event = Delta | Done


@dataclass(frozen=True, slots=True)
class Vectors:
    """`n` rows of float32, little-endian, one after another in the order asked: embeddings, or scores of one number."""

    data: bytes
    n: int
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
