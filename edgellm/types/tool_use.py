"""What became of the calls that a model made."""

from __future__ import annotations

import msgspec

from edgellm.types.event import Completion
from edgellm.types.message import Message, ToolCall


class ToolResult(msgspec.Struct, frozen=True):
    """`text`: what the model is told: the function's result, as JSON unless it is text, or what went wrong."""

    call: ToolCall
    text: str
    failed: bool = False  # an exception, wrong arguments, or no such function

    @property
    def message(self) -> Message:
        return Message("tool", self.text, call_id=self.call.id, name=self.call.name)


class ToolUse(msgspec.Struct, frozen=True):
    """An answer, and how it came about."""

    answer: Completion
    messages: tuple[Message, ...]  # the whole conversation: those sent, calls, results and the answer
    results: tuple[ToolResult, ...] = ()  # in order
