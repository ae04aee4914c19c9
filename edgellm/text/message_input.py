"""A message as programs write it: a dictionary with the names that OpenAI's API gives its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgellm.errors import UsageError
from edgellm.types.message import Message, ToolCall

AS_MESSAGES = 'write text, or [{"role": "user", "content": "..."}]'


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] = ""


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""

    def to_call(self) -> ToolCall:
        arguments = self.function.arguments
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        return ToolCall(self.function.name, arguments, self.id)


class _Message(msgspec.Struct):
    """Its reasoning has the names that other programs give it."""

    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None

    def to_message(self, place: str) -> Message:
        if self.content is None and not self.tool_calls:
            raise UsageError(f"{place} lacks 'content'", hint=AS_MESSAGES, param="messages")
        return Message(
            "system" if self.role == "developer" else self.role,
            self.content if isinstance(self.content, str) else "".join(_text_of(p, place) for p in self.content or ()),
            self.reasoning_content or self.reasoning or self.thinking or "",
            tuple(call.to_call() for call in self.tool_calls or ()),
            self.tool_call_id or "",
            self.name or "",
        )


KEYS = _Message.__struct_fields__


def message_of(message: Mapping[str, Any], place: str = "a message") -> Message:
    """`place`: what errors call it, as `messages[5]`.

    Raises:
        msgspec.ValidationError: a value is missing, or of another type. UsageError: it means nothing.
    """
    return msgspec.convert(message, _Message).to_message(place)


def _text_of(part: _Part, place: str) -> str:
    if part.type != "text":
        what = f"{place} has a part of type {part.type[:40]}"
        raise UsageError(what, hint="models read text: send parts of type text", param="messages")
    if part.text is None:
        raise UsageError(f"a part of {place} lacks 'text'", hint=AS_MESSAGES, param="messages")
    return part.text
