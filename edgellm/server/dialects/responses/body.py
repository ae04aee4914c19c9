"""The body of `/v1/responses`, and the `GenerationRequest` that it becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.server.dialects.responses.items import HOSTED_ITEMS, ResponsesItem, conversation
from edgellm.server.dialects.responses.tools import OWN_TOOLS, ResponsesTool, ResponsesToolChoice, wanted_tools
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.server.schemas.sampling import SamplingBody
from edgellm.server.schemas.tools import Mode
from edgellm.types.grammar import ANY_OBJECT, Grammar
from edgellm.types.message import MAX_MESSAGES, MAX_TOOLS, Message, Tool, ToolChoice
from edgellm.types.reasoning import ReasoningEffort
from edgellm.types.request import GenerationRequest

THOUGHTS = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
# Pairs, and characters of a key and of a value, as OpenAI's API allows: each of the events that hold the response
# repeats them.
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512
MetadataKey = Annotated[str, Meta(max_length=MAX_KEY)]
MetadataText = Annotated[str, Meta(max_length=MAX_VALUE)]


class ResponsesFormat(Fields, kw_only=True):
    """Free text, any JSON object, or JSON under a schema. Answers always keep to the schema, `strict` or not."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None

    def grammar(self) -> Grammar | None:
        where = "text.format.schema"
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Grammar("json_schema", ANY_OBJECT, "text.format")
        if self.schema is None:
            raise UsageError(f"{where} is required", hint='send a schema, or the type "json_object"', param=where)
        return Grammar.of_schema(self.schema, where)


class ResponsesText(Fields, kw_only=True):
    """What the text of the answer looks like."""

    IGNORED = ("verbosity",)

    format: ResponsesFormat | None = None


class ResponsesThinking(Fields, kw_only=True):
    """Whether and how much the model thinks. With `summary` the thoughts are sent in the place of their summary."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"mode": ("standard",)}
    IGNORED = ("context",)

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Annotated[
        Literal["auto", "concise", "detailed"] | None, Meta(description="An older name of summary.")
    ] = None


class ResponsesBody(SamplingBody, kw_only=True):
    """POST /v1/responses."""

    text_field = "input"
    example = '{"input": "..."}'
    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "background": (False,),
        "conversation": (),
        "moderation": (),
        "prompt": (),
    }
    IGNORED = (
        "access_programs",
        "background_options",
        "client_metadata",
        "context_management",
        "image",
        "max_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",
        "user",
    )

    input: str | Annotated[list[ResponsesItem | None], Meta(max_length=MAX_MESSAGES)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: Annotated[bool | None, Meta(description="Whether the response can be asked for later; true.")] = None
    stream: bool | None = None
    include: Annotated[list[str], Meta(max_length=64)] | None = None
    max_output_tokens: int | None = None
    reasoning: ResponsesThinking | None = None
    text: ResponsesText | None = None
    tools: Annotated[list[ResponsesTool | None], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Mode | ResponsesToolChoice | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataText], Meta(max_length=MAX_METADATA)] | None = None

    @classmethod
    def take_out(cls, fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Tools that run at OpenAI's, and what they did."""
        for field, is_hosted in (("tools", _is_hosted_tool), ("input", _is_hosted_item)):
            values = fields.get(field)
            if not isinstance(values, list):
                continue
            for index, value in enumerate(values):
                if value is None:
                    where = f"{field}[{index}]"
                    raise UsageError(f"{where} is null", hint="leave it out", param=where)
                if is_hosted(value):
                    values[index] = None
                    yield value["type"], f"{field}[{index}]"

    def without_effect(self) -> Iterator[tuple[str, str]]:
        for index, item in enumerate(self.items):
            if item is not None and item.is_foreign:
                yield "encrypted_content", f"input[{index}]"
        for name in self.include or ():
            if name not in (THOUGHTS, LOGPROBS):
                yield name, "include"

    @property
    def items(self) -> Sequence[ResponsesItem | None]:
        """What is new in the conversation. None: it is not served."""
        if isinstance(self.input, str):
            return [ResponsesItem(role="user", content=self.input)]
        return self.input or ()

    @property
    def sends_summary(self) -> bool:
        return bool(self.reasoning and (self.reasoning.summary or self.reasoning.generate_summary))

    @property
    def seals_thoughts(self) -> bool:
        return THOUGHTS in (self.include or ())

    @property
    def effort(self) -> ReasoningEffort | None:
        return self.reasoning.effort if self.reasoning else None

    OWN_NAMES: ClassVar[Mapping[str, str]] = {"max_tokens": "max_output_tokens", "truncate": "truncation"}

    def to_requests(self, llm: EdgeLLM, earlier: Sequence[ResponsesItem] = ()) -> list[GenerationRequest]:
        """The one prompt of the conversation, with its settings. `earlier`: what was said before, which is kept here.

        Raises:
            UsageError: a value is out of range, with the name of its field; what `EdgeLLM.request` raises.
        """
        tools, choice = self.wanted_tools()
        grammar = self.text.format.grammar() if self.text and self.text.format else None
        request = llm.request(
            self.messages(earlier),
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            reasoning_effort=self.effort,
            max_tokens=self.max_output_tokens,
            stop=self.stops(),
            sampling=self.sampling(),
            ignore_eos=bool(self.ignore_eos),
            grammar=grammar,
            top_logprobs=self.alternatives(),
            truncate=self.truncation == "auto",
        )
        return [request]

    def messages(self, earlier: Sequence[ResponsesItem] = ()) -> list[Message]:
        system = [Message("system", self.instructions)] if self.instructions else []
        return [*system, *conversation(earlier), *conversation(self.items)]

    def wanted_tools(self) -> tuple[tuple[Tool, ...], ToolChoice]:
        sent = enumerate(self.tools or ())
        tools = tuple(tool.to_tool(f"tools[{index}]") for index, tool in sent if tool is not None)
        return wanted_tools(tools, self.tool_choice)

    @property
    def shown_tools(self) -> list[ResponsesTool]:
        return [tool for tool in self.tools or () if tool is not None]

    @property
    def custom_tools(self) -> frozenset[str]:
        """Names of the tools that take a text."""
        return frozenset(tool.name for tool in self.shown_tools if tool.type == "custom")

    def alternatives(self) -> int | None:
        """How many likely tokens to tell for each one of the answer; None = no logprobs."""
        return self.top_logprobs or (0 if LOGPROBS in (self.include or ()) else None)


class ResponsesCountBody(ResponsesBody, kw_only=True):
    """POST /v1/responses/input_tokens. The fields of /v1/responses."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {**ResponsesBody.NOT_SUPPORTED, "personality": ()}


def _is_hosted_tool(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str) and value["type"] not in OWN_TOOLS


def _is_hosted_item(value: object) -> bool:
    kind = value.get("type") if isinstance(value, dict) else None
    return isinstance(kind, str) and kind in HOSTED_ITEMS
