"""The body of `/api/chat`, and the request that it becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.server.dialects.ollama.body import OllamaGenerationBody
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.server.schemas.message import MAX_PARTS
from edgellm.server.schemas.tools import FunctionBody
from edgellm.types.message import MAX_MESSAGES, MAX_TOOLS, Message, Tool, ToolCall
from edgellm.types.request import GenerationRequest


class OllamaCalledFunction(Fields, kw_only=True):
    """A call in the history."""

    IGNORED = ("index",)

    name: str
    arguments: dict[str, Any] | str | None = None


class OllamaCall(Fields, kw_only=True):
    """One of an assistant's calls."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": ("function",)}

    id: str | None = None
    function: OllamaCalledFunction

    def to_call(self, own_id: str) -> ToolCall:
        """`own_id`: what it is called by where it has no id."""
        arguments = self.function.arguments
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        return ToolCall(self.function.name, text, self.id or own_id)


class OllamaMessage(Fields, kw_only=True):
    """One message of a conversation."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"images": ([],)}

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[list[OllamaCall], Meta(max_length=MAX_PARTS)] | None = None
    tool_name: Annotated[str | None, Meta(description="Of a result: the tool that it is from.")] = None
    tool_call_id: Annotated[str | None, Meta(description="Of a result: the call; absent: the next one.")] = None

    def to_message(self, number: int) -> Message:
        """`number`: its place in the conversation.

        Raises:
            UsageError: somebody else than an assistant calls tools.
        """
        calls = tuple(call.to_call(f"call_{number}_{index}") for index, call in enumerate(self.tool_calls or ()))
        if calls and self.role != "assistant":
            what = f"messages[{number}] of role {self.role} has tool calls"
            raise UsageError(what, hint="only an assistant calls tools", param=f"messages[{number}].tool_calls")
        return Message(
            self.role, self.content or "", self.thinking or "", calls, self.tool_call_id or "", self.tool_name or ""
        )


class OllamaTool(Fields, kw_only=True):
    """A function that the model may call."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": ("function",)}
    IGNORED = ("items",)

    function: FunctionBody


class OllamaChatBody(OllamaGenerationBody, kw_only=True):
    """POST /api/chat."""

    text_field = "messages"

    messages: Annotated[
        Annotated[list[OllamaMessage], Meta(max_length=MAX_MESSAGES)] | None,
        Meta(description="None or absent: see that the model is loaded."),
    ] = None
    tools: Annotated[list[OllamaTool], Meta(max_length=MAX_TOOLS)] | None = None

    def to_requests(self, llm: EdgeLLM) -> list[GenerationRequest]:
        """The one prompt that the model's chat template makes of the messages; none where there are no messages.

        Raises:
            UsageError: a value is out of range, with the name of its field; what `EdgeLLM.request` raises.
        """
        options = self.settled_options(llm)
        if not self.messages:
            return []
        return [self.asked(llm, options, self.conversation(), self.wanted_tools())]

    def conversation(self) -> list[Message]:
        return list(_paired([message.to_message(number) for number, message in enumerate(self.messages or ())]))

    def wanted_tools(self) -> tuple[Tool, ...]:
        return tuple(tool.function.to_tool() for tool in self.tools or ())


def _paired(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages, in which each result names its call. Ollama's older clients say the tool's name at most."""
    waiting: list[ToolCall] = []
    for message in messages:
        if message.calls:
            waiting = list(message.calls)
        yield _naming_its_call(message, waiting) if message.role == "tool" else message


def _naming_its_call(result: Message, waiting: list[ToolCall]) -> Message:
    """`waiting`: calls without a result; loses the one that this is of."""
    fits = [call for call in waiting if (result.call_id or call.id) == call.id]
    fits = [call for call in fits if (result.name or call.name) == call.name] or fits
    if not fits:
        return result
    waiting.remove(fits[0])
    return msgspec.structs.replace(result, call_id=fits[0].id)
