"""Messages of a conversation, the tools that a model may call in it, and its calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

from edgellm.errors import UsageError
from edgellm.types.grammar import Grammar

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
MAX_MESSAGES = 4096  # of a conversation
MAX_TOOLS = 128
MAX_TOOL_BYTES = 64 * 1024  # of one tool
MAX_TOOL_DEPTH = 64  # of lists and objects in its schema
_TOOL_NAME = re.compile(r"[\w.:/-]{1,128}")
INPUT = "input"  # the one argument of a tool that takes a text


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


class TextInput(msgspec.Struct, frozen=True):
    """What a tool takes that is called with a text. Its calls have the arguments {"input": TEXT}.

    `definition`: what the whole text matches, a regular expression or a grammar in Lark without recursion. None: any.

    Raises:
        UsageError: the definition is empty, too long, or nested too deeply.
    """

    definition: str | None = None
    syntax: Literal["regex", "lark"] = "regex"

    def __post_init__(self) -> None:
        if self.definition is not None:
            Grammar(self.syntax, self.definition, "tools")

    @property
    def parameters(self) -> dict[str, Any]:
        """As the model is told of it, which knows functions alone."""
        noun = {"regex": "the regular expression", "lark": "the grammar in Lark"}[self.syntax]
        told = "Any text" if self.definition is None else f"A text that matches {noun} {self.definition}"
        argument = {"type": "string", "description": told}
        return {
            "type": "object",
            "properties": {INPUT: argument},
            "required": [INPUT],
            "additionalProperties": False,
        }


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call. `parameters`: the JSON schema of the object that it takes.

    `input`, in place of parameters: it takes a text. Where that has a definition, the tool is strict.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool = False  # arguments are kept to the schema although nothing forces a call
    input: TextInput | None = None

    def __post_init__(self) -> None:
        if self.input is not None:
            self._take_text(self.input)
        if not isinstance(self.name, str) or not _TOOL_NAME.fullmatch(self.name):
            hint = "1 to 128 letters, digits and _ . : / -"
            raise UsageError(f"{str(self.name)[:60]!r} cannot be the name of a tool", hint=hint, param="tools")
        try:
            size = len(self.description) + len(msgspec.msgpack.encode(self.parameters))
        except (RecursionError, TypeError, UnicodeEncodeError, OverflowError) as error:
            what = f"the parameters of the tool {self.name[:60]!r} are no JSON: {error}"[:200]
            raise UsageError(what, hint="send a flat JSON schema", param="tools") from None
        if size > MAX_TOOL_BYTES:
            what = f"the tool {self.name[:60]!r} has {size} bytes of description and schema"
            raise UsageError(what, hint=f"{MAX_TOOL_BYTES} are allowed", param="tools")
        if _depth(self.parameters) > MAX_TOOL_DEPTH:
            what = f"the parameters of the tool {self.name[:60]!r} are nested too deeply"
            raise UsageError(what, hint=f"{MAX_TOOL_DEPTH} levels are allowed", param="tools")

    def _take_text(self, text: TextInput) -> None:
        if self.parameters not in ({}, text.parameters):
            what = f"the tool {str(self.name)[:60]!r} has parameters, and takes a text"
            raise UsageError(what, hint="leave one of them out", param="tools")
        msgspec.structs.force_setattr(self, "parameters", text.parameters)
        msgspec.structs.force_setattr(self, "strict", self.strict or text.definition is not None)


# A function is described by its signature and docstring, a dictionary as OpenAI's clients do.
AnyTool = Tool | Callable[..., Any] | Mapping[str, Any]


def _depth(value: Any) -> int:
    """Levels of lists and objects up to one more than are allowed."""
    level, depth = [value], 0
    while level and depth <= MAX_TOOL_DEPTH:
        level = [item for one in level for item in _items(one)]
        depth += 1
    return depth


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
