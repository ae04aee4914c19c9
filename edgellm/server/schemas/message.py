"""Messages in the body of a chat request, and the `Message` that each becomes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.input_text import arguments_of
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.types.message import Message, ToolCall

ROLES = {"developer": "system", "function": "tool"}  # the others keep their names
MAX_PARTS = 4096  # of one message, and calls


class ContentPart(Fields, kw_only=True):
    """A part of a message's content: text, or the words with which a model refused."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "type": ("text", "refusal"),
        "image_url": (),
        "input_audio": (),
        "file": (),
    }
    IGNORED = ("prompt_cache_breakpoint",)

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    def words(self, where: str) -> str:
        words = self.text if self.type == "text" else self.refusal
        if words is None:
            raise UsageError(f"{where}.{self.type} is required", hint="see /docs", param=f"{where}.{self.type}")
        return words


class FunctionCall(Fields, kw_only=True):
    """A call in the history. `arguments`: JSON, as the model wrote it."""

    name: str
    arguments: str = ""


class CustomCall(Fields, kw_only=True):
    """A call in the history, of a tool that takes a text."""

    name: str
    input: str = ""


class CallInHistory(Fields, kw_only=True):
    """One of an assistant's calls."""

    IGNORED = ("index",)  # left over from a stream

    id: str | None = None
    type: Literal["function", "custom"] | None = None
    function: FunctionCall | None = None
    custom: CustomCall | None = None

    def to_call(self, where: str) -> ToolCall:
        if self.type == "custom" and self.custom is not None:
            return ToolCall(self.custom.name, arguments_of(self.custom.input), self.id or "")
        if self.type != "custom" and self.function is not None:
            return ToolCall(self.function.name, self.function.arguments, self.id or "")
        param = f"{where}.{self.type or 'function'}"
        raise UsageError(f"{param} is required", hint="see /docs", param=param)


class ChatMessage(Fields, kw_only=True):
    """One message. Several parts are joined with nothing between them. The three names of reasoning mean the same."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"audio": ()}
    IGNORED = ("annotations",)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Meta(max_length=MAX_PARTS)] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[list[CallInHistory], Meta(max_length=MAX_PARTS)] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None

    def to_message(self, where: str = "messages[0]") -> Message:
        """
        Raises:
            UsageError: something is missing, or at the wrong place.
        """
        return Message(
            ROLES.get(self.role, self.role),
            self._text(where),
            self.reasoning_content or self.reasoning or self.thinking or "",
            self._calls(where),
            self.tool_call_id or "",
            self.name or "",
        )

    def _text(self, where: str) -> str:
        if isinstance(self.content, str):
            return self.content
        if self.content is not None:
            return "".join(part.words(f"{where}.content[{index}]") for index, part in enumerate(self.content))
        if self.role not in ("assistant", "tool", "function"):
            raise UsageError(f"{where}.content is required", hint="see /docs", param=f"{where}.content")
        return self.refusal or ""

    def _calls(self, where: str) -> tuple[ToolCall, ...]:
        sent = enumerate(self.tool_calls or ())
        calls = tuple(call.to_call(f"{where}.tool_calls[{index}]") for index, call in sent)
        if self.function_call is not None:
            calls += (ToolCall(self.function_call.name, self.function_call.arguments),)
        if calls and self.role != "assistant":
            what = f"{where} of role {self.role} has tool calls"
            raise UsageError(what, hint="only an assistant calls tools", param=f"{where}.tool_calls")
        return calls
