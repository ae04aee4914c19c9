"""Messages in a body of Anthropic's, and those of the core that they become."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.server.schemas.message import MAX_PARTS
from edgellm.types.message import Message, ToolCall

# What each kind of block has to have, and whose message it may be in.
BLOCK_FIELDS = {
    "text": ("text",),
    "thinking": ("thinking",),
    "redacted_thinking": (),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
}
RESULT_FIELDS = {"text": "text", "tool_reference": "tool_name"}
BLOCKS_OF = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
_written = json.JSONEncoder(ensure_ascii=False).encode
ERROR = "Error: "  # before the result of a tool that failed; templates have no field for that


class AnthropicTextBlock(Fields, kw_only=True):
    """A block of `system`, where nothing else may be."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": ("text",)}
    IGNORED = ("cache_control", "citations")

    type: Literal["text"]
    text: str


class AnthropicResultBlock(Fields, kw_only=True):
    """A block of what a tool returned. `tool_reference` names one of `tools` that the client has looked up."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": tuple(RESULT_FIELDS)}
    IGNORED = ("cache_control", "citations")

    type: Literal["text", "tool_reference"]
    text: str | None = None
    tool_name: str | None = None

    def shown(self, where: str) -> str:
        """What the model reads of it.

        Raises:
            UsageError: it has not what its type has to have.
        """
        name = RESULT_FIELDS[self.type]
        value: str | None = getattr(self, name)
        if value is None:
            raise UsageError(f"{where}.{name} is required", hint="see /docs", param=f"{where}.{name}")
        return value if self.type == "text" else f"The tool {value} can be called.\n"


class AnthropicBlock(Fields, kw_only=True):
    """A block of a message. What was thought comes back with the signature that it was sent with, or without one."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": tuple(BLOCK_FIELDS)}
    IGNORED = ("cache_control", "caller", "citations", "data", "signature", "toolset_name")

    type: Literal["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | Annotated[list[AnthropicResultBlock], Meta(max_length=MAX_PARTS)] | None = None
    is_error: bool | None = None

    def fits(self, role: str) -> bool:
        """Whether it has what its type has to have, and a message of this role may hold it."""
        return self.type in BLOCKS_OF[role] and not self._missing()

    def refusal(self, role: str, where: str) -> UsageError:
        """Of one that does not fit."""
        if self.type not in BLOCKS_OF[role]:
            what = f"{where} of role {role} is of type {self.type}"
            return UsageError(what, hint=f"send blocks of type {', '.join(BLOCKS_OF[role])}", param=f"{where}.type")
        where = f"{where}.{self._missing()[0]}"
        return UsageError(f"{where} is required", hint="see /docs", param=where)

    def to_call(self, where: str) -> ToolCall:
        """Of type tool_use. Its arguments are spelled as models spell JSON, so that the prompt has the same tokens."""
        return ToolCall(self.name or "", _written(self.input), self.id or "")

    def to_result(self, where: str) -> Message:
        """Of type tool_result."""
        text = self.content or ""
        if not isinstance(text, str):
            text = "".join([block.shown(f"{where}.content[{index}]") for index, block in enumerate(text)])
        return Message("tool", (ERROR if self.is_error else "") + text, call_id=self.tool_use_id or "")

    def _missing(self) -> list[str]:
        return [name for name in BLOCK_FIELDS[self.type] if getattr(self, name) is None]


class AnthropicMessage(Fields, kw_only=True):
    """One message. Blocks of text are joined with nothing between them."""

    IGNORED = ("output_config",)  # of a system message: the effort from here on

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[AnthropicBlock], Meta(max_length=MAX_PARTS)]
    clear_at: Annotated[
        Literal["never", "next_user_message"] | None,
        Meta(description="Until when the model is shown a system message."),
    ] = None

    def to_messages(self, where: str) -> list[Message]:
        """What a tool returned is a message of its own.

        Raises:
            UsageError: something is missing, or at the wrong place.
        """
        if isinstance(self.content, str):
            return [Message(self.role, self.content)]
        for index, block in enumerate(self.content):
            if not block.fits(self.role):
                raise block.refusal(self.role, f"{where}.content[{index}]")
        if self.role == "assistant":
            return [self._assistant(self.content, where)]
        groups = itertools.groupby(enumerate(self.content), lambda numbered: numbered[1].type)
        return [message for kind, blocks in groups for message in self._others(kind, list(blocks), where)]

    def _assistant(self, blocks: Sequence[AnthropicBlock], where: str) -> Message:
        return Message(
            self.role,
            "".join([block.text or "" for block in blocks]),
            "".join([block.thinking or "" for block in blocks]),
            tuple(
                block.to_call(f"{where}.content[{index}]")
                for index, block in enumerate(blocks)
                if block.type == "tool_use"
            ),
        )

    def _others(self, kind: str, blocks: Sequence[tuple[int, AnthropicBlock]], where: str) -> list[Message]:
        if kind == "tool_result":
            return [block.to_result(f"{where}.content[{index}]") for index, block in blocks]
        return [Message(self.role, "".join([block.text or "" for _, block in blocks]))]
