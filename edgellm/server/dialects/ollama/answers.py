"""Answers of `/api/chat` and `/api/generate`, whole and as the lines of a stream."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from edgellm.server.schemas.answer import call_id
from edgellm.server.schemas.logprobs import ContentLogprob
from edgellm.types.event import Timings, Usage
from edgellm.types.message import ToolCall

STOPPED = {"length": "length"}  # every other end is a stop


class OllamaFunctionCall(msgspec.Struct, frozen=True):
    index: int
    name: str
    arguments: dict[str, Any]


class OllamaToolCall(msgspec.Struct, frozen=True):
    id: str
    function: OllamaFunctionCall

    @classmethod
    def of(cls, call: ToolCall, index: int) -> OllamaToolCall:
        """What is no JSON object becomes `{"arguments": text}`, as in a conversation's history."""
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            arguments = {"arguments": call.arguments}
        return cls(call_id(), OllamaFunctionCall(index, call.name, arguments))


class OllamaAnswerMessage(msgspec.Struct, frozen=True):
    role: str
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[OllamaToolCall] | UnsetType = UNSET


class OllamaAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What both have. `notes`, an extension: what was asked for and did not happen as it was asked.

    Durations are nanoseconds. `load_duration`: how long the request waited for its turn, as nothing is loaded for it.
    """

    model: str
    created_at: str
    done: bool
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET  # tokens
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    logprobs: list[ContentLogprob] | UnsetType = UNSET
    notes: list[str] | UnsetType = UNSET


class OllamaChatAnswer(OllamaAnswer, frozen=True, kw_only=True):
    message: OllamaAnswerMessage


class OllamaGenerateAnswer(OllamaAnswer, frozen=True, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET


def durations(usage: Usage, timings: Timings) -> dict[str, int]:
    """The fields of that, of the end of an answer."""
    # Clients divide by them.
    prompt, answer = (max(1, nanoseconds(seconds)) for seconds in (timings.prefill_s, timings.decode_s))
    waited = nanoseconds(timings.queued_s)
    return {
        "total_duration": waited + prompt + answer,
        "load_duration": waited,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": prompt,
        "eval_count": usage.completion_tokens,
        "eval_duration": answer,
    }


def written(moment: datetime) -> str:
    """RFC 3339, in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    return round(1e9 * seconds)
