"""Whole answers of `/v1/chat/completions` and `/v1/completions`, as they are sent and as /docs shows them."""

from __future__ import annotations

import uuid
from collections.abc import Collection

import msgspec
from msgspec import UNSET, UnsetType

from edgellm.server.input_text import input_of
from edgellm.server.schemas.logprobs import ChatLogprobs, TextLogprobs
from edgellm.server.schemas.usage import CompletionTimings, CompletionUsage
from edgellm.types.event import Choice
from edgellm.types.message import ToolCall


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str  # JSON


class CalledCustom(msgspec.Struct, frozen=True):
    name: str
    input: str  # the text


class AnswerToolCall(msgspec.Struct, frozen=True):
    """`type` says which of the two is there: "function" or "custom"."""

    id: str
    type: str
    function: CalledFunction | UnsetType = UNSET
    custom: CalledCustom | UnsetType = UNSET

    @classmethod
    def of(cls, call: ToolCall, custom_tools: Collection[str]) -> AnswerToolCall:
        """`custom_tools`: names of those that take a text."""
        if call.name in custom_tools:
            return cls(call_id(), "custom", custom=CalledCustom(call.name, input_of(call.arguments)))
        return cls(call_id(), "function", CalledFunction(call.name, call.arguments))


class AnswerMessage(msgspec.Struct, frozen=True):
    """`content` is null where there are only calls."""

    role: str
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[AnswerToolCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET  # where `functions` were sent

    @classmethod
    def of(cls, choice: Choice, *, legacy: bool, custom_tools: Collection[str] = ()) -> AnswerMessage:
        calls = [AnswerToolCall.of(call, custom_tools) for call in choice.calls]
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
