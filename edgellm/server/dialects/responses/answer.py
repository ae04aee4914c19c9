"""Answers of `/v1/responses`, as they are sent and as /docs shows them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from edgellm.server.schemas.logprobs import ContentLogprob
from edgellm.server.schemas.usage import CompletionTimings
from edgellm.types import event


class ResponsesOutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """The text of a message."""

    text: str
    logprobs: list[ContentLogprob]  # one for each token, where they were asked for
    annotations: list[Any] = []


class ResponsesThought(msgspec.Struct, frozen=True):
    """`type`: "reasoning_text", or "summary_text" where a summary was asked for."""

    type: str
    text: str


class ResponsesMessageItem(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    id: str
    status: str  # "in_progress", "completed" or, where the answer was cut off in it, "incomplete"
    content: list[ResponsesOutputText]
    role: str = "assistant"


class ResponsesReasoningItem(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """The thoughts are in `content`, or in `summary` where one was asked for."""

    id: str
    status: str
    summary: list[ResponsesThought]
    content: list[ResponsesThought] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET  # the same, for clients that keep nothing else


class ResponsesCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    id: str
    status: str
    call_id: str  # by which the result names it
    name: str
    arguments: str  # JSON


class ResponsesCustomCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="custom_tool_call"):
    id: str
    status: str
    call_id: str
    name: str
    input: str  # the text


OutputItem = ResponsesMessageItem | ResponsesReasoningItem | ResponsesCallItem | ResponsesCustomCallItem


class ResponsesCachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int  # reused from an earlier request
    cache_write_tokens: int = 0  # nothing is billed for it


class ResponsesReasoningTokens(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponsesUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: ResponsesCachedTokens
    output_tokens: int
    output_tokens_details: ResponsesReasoningTokens
    total_tokens: int

    @classmethod
    def of(cls, usage: event.Usage) -> ResponsesUsage:
        return cls(
            usage.prompt_tokens,
            ResponsesCachedTokens(usage.cached_tokens),
            usage.completion_tokens,
            ResponsesReasoningTokens(usage.reasoning_tokens),
            usage.prompt_tokens + usage.completion_tokens,
        )


class ResponsesFailure(msgspec.Struct, frozen=True):
    code: str
    message: str


class ResponsesIncomplete(msgspec.Struct, frozen=True):
    reason: str  # "max_output_tokens", which a full context is, too


class ResponsesThinkingUsed(msgspec.Struct, frozen=True):
    effort: str | None
    summary: str | None


class ResponsesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`tools`: those that the model is shown."""

    id: str
    object: str = "response"
    created_at: int
    completed_at: int | None = None
    status: str = "in_progress"  # then "completed", "incomplete" or "failed"
    error: ResponsesFailure | None = None
    incomplete_details: ResponsesIncomplete | None = None
    background: bool = False
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: ResponsesThinkingUsed
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_logprobs: int
    top_p: float | None
    truncation: str
    usage: ResponsesUsage | None = None
    timings: CompletionTimings | UnsetType = UNSET  # extension
    notes: list[str] | UnsetType = UNSET  # extension: what the model's template did not take as it was sent


class ResponsesInputTokens(msgspec.Struct, frozen=True):
    input_tokens: int
    object: str = "response.input_tokens"


class ResponsesDeleted(msgspec.Struct, frozen=True):
    id: str
    object: str = "response"
    deleted: bool = True
