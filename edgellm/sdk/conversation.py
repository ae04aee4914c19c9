"""A conversation as a caller writes it: text, messages, or dictionaries with role and content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.errors import UsageError
from edgellm.types.message import Message

Messages = str | Sequence[Message | Mapping[str, str | Sequence[Mapping[str, str]]]]
_AS_MESSAGES = 'write text, or [{"role": "user", "content": "..."}]'


def messages_of(messages: Messages) -> list[Message]:
    """
    Raises:
        UsageError: they are none, or lack something.
    """
    if isinstance(messages, str):
        if not messages.strip():
            raise UsageError("there is nothing to answer: the text is empty", hint=_AS_MESSAGES, param="messages")
        return [Message("user", messages)]
    try:
        conversation = [m if isinstance(m, Message) else _message(m) for m in messages]
    except KeyError as error:
        raise UsageError(f"a message lacks {error}", hint=_AS_MESSAGES, param="messages") from None
    except TypeError as error:
        raise UsageError(f"these are not messages: {error}", hint=_AS_MESSAGES, param="messages") from None
    if not conversation:
        raise UsageError("there are no messages", hint="send at least one user message", param="messages")
    return conversation


def _message(message: Mapping[str, Any]) -> Message:
    """`content` is text, or the parts of a text as OpenAI's clients write them: they are joined."""
    content = message["content"]
    if isinstance(content, Sequence) and not isinstance(content, str):
        kinds = {part["type"] for part in content} - {"text"}
        if kinds:
            what = f"a message has parts of type {', '.join(sorted(kinds))}"
            raise UsageError(what, hint="models read text: send parts of type text", param="messages")
        content = "".join(part["text"] for part in content)
    return Message(message["role"], content)
