"""What a model answered where its bundle was made: log-probabilities of given tokens, and how long its template makes
a prompt. Where it is installed it must answer the same, but for what other instructions of a processor change.
"""

from __future__ import annotations

from statistics import fmean
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edgellm.bundle.manifest import damaged

SCHEMA = 1
FOLDER = "golden"
MAX_BYTES = 256 * 1024
TEXTS = (
    "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "def add(a, b):\n    return a + b\n",
    "Drei mal sieben ist einundzwanzig: 3 * 7 = 21.",
)
PROMPT = "What is the capital of France?"
# Mean difference of a token's log-probability, in nats.
TOLERANCE = 0.3
TEMPLATE_TOLERANCE = 4  # tokens: some templates write the day's date

_Text = Annotated[str, Meta(max_length=4000)]
_Logprob = Annotated[float, Meta(ge=-1e6, le=0.0)]


class GoldenText(Struct, frozen=True, kw_only=True):
    """`logprobs`: of each of its tokens but the first, given those before it."""

    text: _Text
    logprobs: Annotated[tuple[_Logprob, ...], Meta(min_length=1, max_length=4000)]


class GoldenChat(Struct, frozen=True, kw_only=True):
    prompt: _Text
    prompt_tokens: Annotated[int, Meta(ge=1, le=100_000)]  # of what the template makes of it


class Golden(Struct, frozen=True, kw_only=True):
    """`chat`: None where the model has no template."""

    texts: Annotated[tuple[GoldenText, ...], Meta(min_length=1, max_length=20)]
    chat: GoldenChat | None = None
    schema: Annotated[int, Meta(ge=1, le=SCHEMA)] = SCHEMA


def encode(golden: Golden) -> bytes:
    return msgspec.json.format(msgspec.json.encode(golden), indent=1) + b"\n"


def decode(content: bytes) -> Golden:
    """
    Raises:
        BadArtifact: it is malformed.
    """
    try:
        return msgspec.json.decode(content, type=Golden)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(f"its golden answers cannot be read: {error}") from None


def difference(golden: Golden, answered: Golden) -> float | None:
    """Mean difference of the log-probabilities, in nats; None where a text has another number of tokens by now."""
    pairs = list(zip(golden.texts, answered.texts, strict=True))
    if any(len(one.logprobs) != len(other.logprobs) for one, other in pairs):
        return None
    return fmean(abs(a - b) for one, other in pairs for a, b in zip(one.logprobs, other.logprobs, strict=True))
