"""The items of a conversation as OpenAI's Responses have them, and the messages that they become."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from edgellm.server.dialects.responses.sealed import opened
from edgellm.server.input_text import arguments_of
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.server.schemas.message import MAX_PARTS, ROLES
from edgellm.server.schemas.tools import required
from edgellm.types.message import Message, ToolCall

TEXT_PARTS = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
# What tools did that run at OpenAI's, or that only its own models know. The model is not shown them.
HOSTED_ITEMS = frozenset({
    "additional_tools",
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "compaction_trigger",
    "computer_call",
    "computer_call_output",
    "configuration_update",
    "file_search_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
})  # fmt: skip
SUMMARY = "Summary of the conversation until here:\n"


class ResponsesPart(Fields, kw_only=True):
    """A part of what was said: text, or the words with which a model refused."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "type": TEXT_PARTS,
        "image_url": (),
        "file_id": (),
        "file_data": (),
        "file_url": (),
        "input_audio": (),
    }
    IGNORED = ("annotations", "detail", "filename", "logprobs", "prompt_cache_breakpoint")

    type: Literal["input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"]
    text: str | None = None
    refusal: str | None = None


Parts = Annotated[list[ResponsesPart], Meta(max_length=MAX_PARTS)]


class ResponsesItem(Fields, kw_only=True):
    """What was said, thought, called, or returned by a tool; which of the fields are there follows from `type`."""

    IGNORED = ("async", "caller", "created_by", "namespace", "phase", "status")

    type: Annotated[
        Literal[
            "message",
            "reasoning",
            "function_call",
            "function_call_output",
            "custom_tool_call",
            "custom_tool_call_output",
            "compaction",
            "item_reference",
        ]
        | None,
        Meta(description="Absent: message, or a reference where only an id is there."),
    ] = None
    id: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | Parts | None = None
    summary: Parts | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | Parts | None = None

    @property
    def is_reference(self) -> bool:
        """Whether it stands for an item that is kept here."""
        return self.type == "item_reference" or (self.type is None and self.role is None and self.id is not None)

    @property
    def is_foreign(self) -> bool:
        """Whether it is sealed by another server, and says nothing beside."""
        return self._is_sealed and self._opened() is None and not (self.content or self.summary)

    @property
    def _is_sealed(self) -> bool:
        return self.type in ("reasoning", "compaction") and bool(self.encrypted_content)

    def to_message(self, where: str) -> Message | None:
        """It as a message, or as a part of an assistant's. None: it says nothing.

        Raises:
            UsageError: something is missing.
        """
        if self.type == "reasoning":
            thought = self._thought(where)
            return Message("assistant", reasoning=thought) if thought else None
        if self.type == "compaction":
            summary = self._opened()
            return Message("user", SUMMARY + summary) if summary else None
        if self.type in ("function_call", "custom_tool_call"):
            return Message("assistant", calls=(self._call(where),))
        if self.type in ("function_call_output", "custom_tool_call_output"):
            if self.output is None:
                raise required(f"{where}.output")
            return Message(
                "tool", words_of(self.output, f"{where}.output"), call_id=self.call_id or "", name=self.name or ""
            )
        if self.role is None or self.content is None:
            raise required(f"{where}.role" if self.role is None else f"{where}.content")
        return Message(ROLES.get(self.role, self.role), words_of(self.content, f"{where}.content"))

    def _call(self, where: str) -> ToolCall:
        if self.name is None:
            raise required(f"{where}.name")
        field, written = ("arguments", self.arguments) if self.type == "function_call" else ("input", self.input)
        if written is None:
            raise required(f"{where}.{field}")
        return ToolCall(self.name, written if field == "arguments" else arguments_of(written), self.call_id or "")

    def _thought(self, where: str) -> str:
        if (text := self._opened()) is not None:
            return text
        return words_of(self.content or self.summary or "", f"{where}.content")

    def _opened(self) -> str | None:
        return opened(self.encrypted_content) if self.encrypted_content else None


def words_of(content: str | Iterable[ResponsesPart], where: str) -> str:
    """
    Raises:
        UsageError: a part has none.
    """
    if isinstance(content, str):
        return content
    return "".join(_words(part, f"{where}[{index}]") for index, part in enumerate(content))


def conversation(items: Iterable[ResponsesItem | None], where: str = "input") -> list[Message]:
    """The messages of a conversation. What an assistant thinks, says and calls without a result between is one message.

    Raises:
        UsageError: an item lacks something.
    """
    runs: list[_Run] = []
    for index, item in enumerate(items):
        message = item.to_message(f"{where}[{index}]") if item is not None else None
        if message is None:
            continue
        if not runs or not runs[-1].takes(message):
            runs.append(_Run())
        runs[-1].add(message)
    return [run.joined() for run in runs]


class _Run:
    """Items that are one message. They are joined at the end: one by one, each would copy all before it."""

    def __init__(self) -> None:
        self._parts: list[Message] = []
        self._says = self._calls = False

    def takes(self, message: Message) -> bool:
        if self._parts[0].role != "assistant" or message.role != "assistant":
            return False
        if message.reasoning:
            return not (self._says or self._calls)
        return bool(message.calls) or not self._says

    def add(self, message: Message) -> None:
        self._parts.append(message)
        self._says |= bool(message.content)
        self._calls |= bool(message.calls)

    def joined(self) -> Message:
        first, *others = self._parts
        if not others:
            return first
        return msgspec.structs.replace(
            first,
            content="".join([part.content for part in self._parts]),
            reasoning="".join([part.reasoning for part in self._parts]),
            calls=tuple(call for part in self._parts for call in part.calls),
        )


def _words(part: ResponsesPart, where: str) -> str:
    words = part.refusal if part.type == "refusal" else part.text
    if words is None:
        raise required(f"{where}.refusal" if part.type == "refusal" else f"{where}.text")
    return words
