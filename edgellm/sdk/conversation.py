"""A conversation as a caller writes it: text, messages, or dictionaries as OpenAI's clients send them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from edgellm.errors import UsageError
from edgellm.types.checks import in_python
from edgellm.types.message import Message, Tool, ToolCall

Messages = str | Sequence[Message | Mapping[str, str | Sequence[Mapping[str, Any]] | None]]
_AS_MESSAGES = 'write text, or [{"role": "user", "content": "..."}]'


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
    """A message with the names that OpenAI's API gives its fields, and those that others give its reasoning."""

    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None

    def to_message(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise UsageError("a message lacks 'content'", hint=_AS_MESSAGES, param="messages")
        return Message(
            "system" if self.role == "developer" else self.role,
            self.content if isinstance(self.content, str) else "".join(map(_text_of, self.content or ())),
            self.reasoning_content or self.reasoning or self.thinking or "",
            tuple(call.to_call() for call in self.tool_calls or ()),
            self.tool_call_id or "",
            self.name or "",
        )


def messages_of(messages: Messages) -> list[Message]:
    """
    Raises:
        UsageError: they are none, or lack something.
    """
    if isinstance(messages, str):
        if not messages.strip():
            raise UsageError("there is nothing to answer: the text is empty", hint=_AS_MESSAGES, param="messages")
        return [Message("user", messages)]
    if isinstance(messages, Message | Mapping):
        raise UsageError("messages is a list, and this is one message", hint="wrap it in [ ]", param="messages")
    if not isinstance(messages, Iterable):
        what = f"messages={messages!r:.60} is no list of messages"
        raise UsageError(what, hint=_AS_MESSAGES, param="messages")
    conversation = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    if not conversation:
        raise UsageError("there are no messages", hint="send at least one user message", param="messages")
    return conversation


def _message(message: Message | Mapping[str, Any], place: str) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise UsageError(f"{place}={message!r:.60} is no message", hint=_AS_MESSAGES, param="messages")
    try:
        return msgspec.convert(message, _Message).to_message()
    except msgspec.ValidationError as error:
        problem, where, allowed = in_python(error)
        what = f"{place}{'.' if where else ''}{where}{'' if allowed else ':'} {problem}"
        raise UsageError(what, hint=f"allowed: {allowed}" if allowed else _AS_MESSAGES, param="messages") from None


def texts_of(conversation: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    """All that a template may write of them."""
    for message in conversation:
        yield from (message.content, message.reasoning)
        yield from (call.arguments for call in message.calls)
    for tool in tools:
        yield from (tool.description, str(tool.parameters))


def _text_of(part: _Part) -> str:
    if part.type != "text":
        what = f"a message has a part of type {part.type[:40]}"
        raise UsageError(what, hint="models read text: send parts of type text", param="messages")
    if part.text is None:
        raise UsageError("a part of a message lacks 'text'", hint=_AS_MESSAGES, param="messages")
    return part.text
