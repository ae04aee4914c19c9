"""A conversation as a caller writes it: text, messages, or dictionaries as OpenAI's clients send them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from edgellm.errors import UsageError
from edgellm.text.message_input import AS_MESSAGES, KEYS, message_of
from edgellm.types.checks import in_python
from edgellm.types.message import Message, Tool

Messages = str | Sequence[Message | Mapping[str, str | Sequence[Mapping[str, Any]] | None]]


def messages_of(messages: Messages) -> list[Message]:
    """
    Raises:
        UsageError: they are none, or lack something.
    """
    if isinstance(messages, str):
        if not messages.strip():
            raise UsageError("there is nothing to answer: the text is empty", hint=AS_MESSAGES, param="messages")
        return [Message("user", messages)]
    if isinstance(messages, Message | Mapping):
        raise UsageError("messages is a list, and this is one message", hint="wrap it in [ ]", param="messages")
    if isinstance(messages, bytes | bytearray) or not isinstance(messages, Iterable):
        what = f"messages={messages!r:.60} is no list of messages"
        raise UsageError(what, hint=AS_MESSAGES, param="messages")
    conversation = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    if not conversation:
        raise UsageError("there are no messages", hint="send at least one user message", param="messages")
    return conversation


def _message(message: Message | Mapping[str, Any], place: str) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise UsageError(f"{place}={message!r:.60} is no message", hint=AS_MESSAGES, param="messages")
    # What has no value, as "refusal": None in answers of OpenAI's client, says nothing.
    unknown = [str(name) for name, value in message.items() if name not in KEYS and value]
    if unknown:
        what = f"{place} has a key {unknown[0]!r:.60}, which means nothing"
        raise UsageError(what, hint=f"keys of a message: {', '.join(KEYS)}", param="messages")
    try:
        return message_of(message, place)
    except msgspec.ValidationError as error:
        problem, where, allowed = in_python(error)
        what = f"{place}{'.' if where else ''}{where}{'' if allowed else ':'} {problem}"
        raise UsageError(what, hint=f"allowed: {allowed}" if allowed else AS_MESSAGES, param="messages") from None


def texts_of(conversation: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    """All that a template may write of them."""
    for message in conversation:
        yield from (message.content, message.reasoning)
        yield from (call.arguments for call in message.calls)
    for tool in tools:
        yield from (tool.description, str(tool.parameters))
