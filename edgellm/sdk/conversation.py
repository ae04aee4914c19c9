"""A conversation as a caller writes it: text, messages, or dictionaries with role and content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgellm.errors import UsageError
from edgellm.types.request import Message

Messages = str | Sequence[Message | Mapping[str, str]]
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
        conversation = [m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in messages]
    except KeyError as error:
        raise UsageError(f"a message lacks {error}", hint=_AS_MESSAGES, param="messages") from None
    except TypeError as error:
        raise UsageError(f"these are not messages: {error}", hint=_AS_MESSAGES, param="messages") from None
    if not conversation:
        raise UsageError("there are no messages", hint="send at least one user message", param="messages")
    return conversation
