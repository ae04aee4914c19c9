"""Whole answers of `/v1/chat/completions` and `/v1/completions`, as they are sent and as /docs shows them."""

from __future__ import annotations

import uuid

import msgspec
from msgspec import UNSET, UnsetType

from edgellm.server.schemas.logprobs import ChatLogprobs, TextLogprobs
from edgellm.server.schemas.usage import CompletionTimings, CompletionUsage
from edgellm.types.event import Choice
from edgellm.types.message import ToolCall


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str  # JSON


class AnswerToolCall(msgspec.Struct, frozen=True):
    id: str
    type: str  # "function"
    function: CalledFunction


class AnswerMessage(msgspec.Struct, frozen=True):
    """`content` is null where there are only calls."""

    role: str
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[AnswerToolCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET  # where `functions` were sent

    @classmethod
    def of(cls, choice: Choice, *, legacy: bool) -> AnswerMessage:
        calls = [AnswerToolCall(call_id(), "function", _function(call)) for call in choice.calls]
        return cls(
            "assistant",
            None if calls and not choice.text else choice.text,
            reasoning_content=choice.reasoning or UNSET,
            tool_calls=calls if calls and not legacy else UNSET,
            function_call=calls[0].function if calls and legacy else UNSET,
        )


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: AnswerMessage
    finish_reason: str  # "stop", "length", "tool_calls" or, where `functions` were sent, "function_call"
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str  # of model, settings and version
    choices: list[ChatChoice]
    usage: CompletionUsage
    timings: CompletionTimings
    notes: list[str] | UnsetType = UNSET  # extension: what the model's template did not take as it was sent


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
    system_fingerprint: str
    choices: list[TextChoice]
    usage: CompletionUsage
    timings: CompletionTimings
    notes: list[str] | UnsetType = UNSET


def call_id() -> str:
    """A new one. Templates of Mistral's models ask for nine letters and digits."""
    return uuid.uuid4().hex[:9]


def finish_reason(reason: str, *, legacy: bool) -> str:
    """As clients that send `functions` know it, where `legacy`."""
    return "function_call" if legacy and reason == "tool_calls" else reason


def _function(call: ToolCall) -> CalledFunction:
    return CalledFunction(call.name, call.arguments)
