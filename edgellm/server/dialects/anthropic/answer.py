"""Whole answers of Anthropic's dialect, as they are sent and as /docs shows them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from edgellm.server.schemas.answer import call_id
from edgellm.types import event
from edgellm.types.event import Completion, Done
from edgellm.types.message import ToolCall

# Clients send it back with what was thought, and nothing here asks for it: it is only there because they expect one.
SIGNATURE = "ZWRnZWxsbQ=="
# The key that Anthropic's documentation proposes for arguments that are no JSON object.
NO_OBJECT = "INVALID_JSON"


class AnthropicThinkingAnswer(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class AnthropicTextAnswer(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class AnthropicToolUse(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]

    @classmethod
    def of(cls, call: ToolCall) -> AnthropicToolUse:
        return cls(call_id(), call.name, _object(call.arguments))


AnswerBlock = AnthropicThinkingAnswer | AnthropicTextAnswer | AnthropicToolUse


class AnthropicTokensDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int


class AnthropicUsage(msgspec.Struct, frozen=True):
    """`input_tokens`: those of the prompt that were computed. Nothing is paid for writing a cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int  # of the prompt, reused from an earlier request
    output_tokens_details: AnthropicTokensDetails
    cache_creation_input_tokens: int = 0

    @classmethod
    def of(cls, usage: event.Usage) -> AnthropicUsage:
        return cls(
            usage.prompt_tokens - usage.cached_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            AnthropicTokensDetails(usage.reasoning_tokens),
        )


class AnthropicAnswer(msgspec.Struct, frozen=True):
    id: str
    type: str  # "message"
    role: str  # "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: str | None  # None: it has only begun
    stop_sequence: str | None
    usage: AnthropicUsage
    notes: list[str] | UnsetType = UNSET  # extension: what the model's template did not take as it was sent


class AnthropicTokenCount(msgspec.Struct, frozen=True):
    input_tokens: int


class AnthropicErrorDetail(msgspec.Struct, frozen=True):
    type: str
    message: str
    details: dict[str, Any] | UnsetType = UNSET


class AnthropicError(msgspec.Struct, frozen=True):
    type: str  # "error"
    error: AnthropicErrorDetail
    request_id: str


def blocks(answer: Completion, *, hides_thinking: bool) -> list[AnswerBlock]:
    """What was thought, what was said, and the calls."""
    content: list[AnswerBlock] = []
    if answer.reasoning:
        content.append(AnthropicThinkingAnswer("" if hides_thinking else answer.reasoning, SIGNATURE))
    if answer.text:
        content.append(AnthropicTextAnswer(answer.text))
    return [*content, *map(AnthropicToolUse.of, answer.calls)]


def stop_reason(done: Done, max_tokens: int) -> str:
    """Why the answer ended, in Anthropic's words. `max_tokens`: what the request allowed."""
    if done.finish_reason == "length":
        n_tokens = done.usage.completion_tokens
        return "max_tokens" if n_tokens >= max_tokens else "model_context_window_exceeded"
    if done.finish_reason == "tool_calls":
        return "tool_use"
    return "stop_sequence" if done.stop else "end_turn"


def _object(arguments: str) -> dict[str, Any]:
    """Models may write what is no JSON, and be cut off in the middle of it."""
    try:
        value = msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {NO_OBJECT: arguments}
