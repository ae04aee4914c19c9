"""Messages as callers write them."""

from __future__ import annotations

from typing import Any

import pytest
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.sdk.conversation import messages_of
from edgellm.types.message import Message, ToolCall

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}


def test_a_round_of_tools_as_openai_writes_it() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Rain?", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "ja"}], "name": "weather"},
    ]

    assert messages_of(messages) == [
        Message("system", "Be brief."),
        Message("user", "Rain?", name="Ada"),
        Message("assistant", "", calls=(ToolCall("weather", '{"city": "Köln"}', "call_1"),)),
        Message("tool", "ja", call_id="call_1", name="weather"),
    ]


def test_arguments_may_be_an_object_and_keep_what_is_not_ascii() -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Köln"}}}
    (message,) = messages_of([{"role": "assistant", "tool_calls": [call]}])
    assert message.calls == (ToolCall("weather", '{"city":"Köln"}'),)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_three_names(name: str) -> None:
    (message,) = messages_of([{"role": "assistant", "content": "4", name: "2 + 2"}])
    assert message == Message("assistant", "4", reasoning="2 + 2")


NO_MESSAGES: dict[str, Any] = {
    "no role": {"content": "hi"},
    "no content": {"role": "user"},
    "null": {"role": "user", "content": None},
    "a number": {"role": "user", "content": 5},
    "a picture": {"role": "user", "content": [{"type": "image_url"}]},
    "an empty part": {"role": "user", "content": [{"type": "text"}]},
    "a user who calls": {"role": "user", "content": "hi", "tool_calls": [CALL]},
    "a call without function": {"role": "assistant", "tool_calls": [{"id": "1"}]},
    "calls in words": {"role": "assistant", "tool_calls": "weather()"},
    "a robot": {"role": "robot", "content": "hi"},
    "text": "hi",
}


@pytest.mark.parametrize(
    "messages",
    [None, 5, Message("user", "hi"), {"role": "user", "content": "hi"}, b"hi"],
    ids=["none", "a number", "a message", "a dictionary", "bytes"],
)
def test_messages_are_a_list(messages: Any) -> None:
    with refuses(UsageError, param="messages"):
        messages_of(messages)


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_is_no_message_is_refused(name: str) -> None:
    with refuses(UsageError, param="messages"):
        messages_of([NO_MESSAGES[name]])


@pytest.mark.parametrize("messages", ["", " \n", []], ids=["text", "blanks", "list"])
def test_nothing_is_not_answered(messages: Any) -> None:
    with refuses(UsageError, param="messages"):
        messages_of(messages)
