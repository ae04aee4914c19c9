"""Messages of a conversation, the tools that a model may call in it, and its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from edgellm.errors import UsageError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
MAX_TOOLS = 128


class ToolCall(msgspec.Struct, frozen=True):
    """A call that a model made. `arguments`: JSON as the model wrote it, which may be wrong."""

    name: str
    arguments: str
    id: str = ""  # by which the message with the result names it


class Message(msgspec.Struct, frozen=True):
    role: str  # one of ROLES
    content: str = ""
    reasoning: str = ""  # what an assistant thought before it answered
    calls: tuple[ToolCall, ...] = ()  # of an assistant
    call_id: str = ""  # of a tool: the call that this is the result of
    name: str = ""  # of a tool: its own name; of a user: the person's

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UsageError(f"unknown role {self.role!r}", hint=f"one of: {', '.join(ROLES)}", param="messages")
        if not isinstance(self.content, str):
            raise UsageError("the content of a message is not text", hint="write a string", param="messages")
        if self.calls and self.role != "assistant":
            what = f"a message of role {self.role} has tool calls"
            raise UsageError(what, hint="only an assistant calls tools", param="messages")


class NamedTool(msgspec.Struct, frozen=True):
    """The one tool that has to be called."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool
TOOL_CHOICES = ("auto", "none", "required")


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call. `parameters`: the JSON schema of the object that it takes."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool = False  # arguments are kept to the schema although nothing forces a call


# A function is described by its signature and docstring, a dictionary as OpenAI's clients do.
AnyTool = Tool | Callable[..., Any] | Mapping[str, Any]
