"""The bodies of `/v1/messages` and `/v1/messages/count_tokens`, and the `GenerationRequest`s that they become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.server.dialects.anthropic.message import AnthropicMessage, AnthropicTextBlock
from edgellm.server.dialects.anthropic.tools import AnthropicTool, AnthropicToolChoice
from edgellm.server.schemas.fields import Fields, NeutralValues, RequestBody
from edgellm.server.schemas.message import MAX_PARTS
from edgellm.types.grammar import Grammar
from edgellm.types.message import MAX_MESSAGES, MAX_TOOLS, Message
from edgellm.types.reasoning import ReasoningEffort
from edgellm.types.request import MAX_STOPS, GenerationRequest
from edgellm.types.sampling import Sampling

# Claude Code puts a block of this kind first. It changes with each request, and no prefix would ever be used again.
BILLING = "x-anthropic-billing-header:"
_SAMPLING = ("temperature", "top_p", "top_k", "seed")


class AnthropicThinking(Fields, kw_only=True):
    """`adaptive`: as much as it wants. `between_tools`: only where it has just got the results of tools."""

    IGNORED = ("block_binding",)

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: Annotated[int, Meta(ge=0, description="Of type enabled: most tokens of what it thinks.")] | None = (
        None
    )
    display: Annotated[
        Literal["summarized", "omitted", "updates"] | None,
        Meta(description="`omitted`: blocks of thinking come without their text; else with all of it."),
    ] = None

    def wanted(self, last: Message) -> bool:
        """Whether the model thinks before it answers. `last`: the message that it answers."""
        return last.role == "tool" if self.type == "between_tools" else self.type != "disabled"

    @property
    def budget(self) -> int | None:
        return self.budget_tokens if self.type == "enabled" else None


class AnthropicFormat(Fields, kw_only=True):
    """The answer is JSON under a schema."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": ("json_schema",)}

    type: Literal["json_schema"]
    schema: dict[str, Any]


class AnthropicOutputConfig(Fields, kw_only=True):
    """`effort`: how much of an answer the model may think, where it thinks."""

    IGNORED = ("task_budget",)

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: AnthropicFormat | None = None


class AnthropicPromptBody(RequestBody, kw_only=True):
    """What both bodies share: what makes the prompt."""

    text_field = "messages"
    example = '{"model": "default", "max_tokens": 1024, "messages": [...]}'
    NOT_SUPPORTED: ClassVar[NeutralValues] = {"container": (), "mcp_servers": ([],), "thread": ()}
    IGNORED: ClassVar[tuple[str, ...]] = (
        "betas",
        "billing_policy",
        "cache_control",
        "compaction",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    )

    messages: Annotated[list[AnthropicMessage], Meta(max_length=MAX_MESSAGES)]
    system: str | Annotated[list[AnthropicTextBlock], Meta(max_length=MAX_PARTS)] | None = None
    tools: Annotated[list[AnthropicTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: AnthropicThinking | None = None
    output_config: AnthropicOutputConfig | None = None
    output_format: Annotated[AnthropicFormat | None, Meta(description="Older; as output_config.format.")] = None

    def without_effect(self) -> Iterator[tuple[str, str]]:
        return ((tool.type or "", "tools[]") for tool in self.tools or () if tool.is_hosted)

    def to_request(self, llm: EdgeLLM, **answer: Any) -> GenerationRequest:
        """`answer`: what else is asked of it, as arguments of `EdgeLLM.request`.

        Raises:
            UsageError: a value is wrong, with the name of its field; what `EdgeLLM.request` raises.
        """
        conversation = self.conversation()
        last = conversation[-1] if conversation else Message("user")
        thinking, tools, choice = self.thinking, self.tools or [], self.tool_choice
        thinks = None if thinking is None else thinking.wanted(last)
        continues = last.role == "assistant"  # Anthropic's way to say how the answer begins
        request = llm.request(
            conversation,
            tools=[tool.to_tool(f"tools[{index}]") for index, tool in enumerate(tools) if not tool.is_hosted],
            tool_choice="auto" if choice is None else choice.to_choice(tools),
            parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
            thinking=thinks,
            reasoning_effort=None if thinks is False else self._effort(),
            grammar=self._grammar(),
            add_generation_prompt=not continues,
            continue_final_message=continues,
            **answer,
        )
        if thinking is None or thinking.budget is None:
            return request
        return msgspec.structs.replace(request, reasoning_budget=thinking.budget)

    def conversation(self) -> list[Message]:
        """
        Raises:
            UsageError: something is missing, or calls have no results.
        """
        n_until_user = max((i for i, message in enumerate(self.messages) if message.role == "user"), default=0)
        conversation = [
            message
            for index, sent in enumerate(self.messages)
            if sent.clear_at != "next_user_message" or index > n_until_user
            for message in sent.to_messages(f"messages[{index}]")
        ]
        if conversation and conversation[-1].calls:
            what = f"messages[{len(self.messages) - 1}] ends with tool_use, and no tool_result follows"
            raise UsageError(what, hint="send the results of the tools in a message of role user", param="messages")
        system = self._system()
        return [Message("system", system), *conversation] if system and conversation else conversation

    def _system(self) -> str:
        if self.system is None or isinstance(self.system, str):
            return self.system or ""
        return "".join([block.text for block in self.system if not block.text.startswith(BILLING)])

    def _effort(self) -> ReasoningEffort | None:
        return None if self.output_config is None else self.output_config.effort

    def _grammar(self) -> Grammar | None:
        if self.output_config is not None and self.output_config.format is not None:
            return Grammar.of_schema(self.output_config.format.schema, "output_config.format.schema")
        return None if self.output_format is None else Grammar.of_schema(self.output_format.schema, "output_format")


class AnthropicCountBody(AnthropicPromptBody, kw_only=True):
    """POST /v1/messages/count_tokens. What says how to answer may be there."""

    IGNORED = (*AnthropicPromptBody.IGNORED, "max_tokens", "stop_sequences", "stream", *_SAMPLING)


class AnthropicMessagesBody(AnthropicPromptBody, kw_only=True):
    """POST /v1/messages."""

    OWN_NAMES: ClassVar[Mapping[str, str]] = {"stop": "stop_sequences"}

    max_tokens: int
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: Annotated[int | None, Meta(description="Extension. The same seed gives the same text.")] = None

    @property
    def hides_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.display == "omitted"

    def to_requests(self, llm: EdgeLLM) -> list[GenerationRequest]:
        """The one prompt that the model's chat template makes of the messages, with its settings.

        Raises as `to_request` does.
        """
        values = {name: getattr(self, name) for name in _SAMPLING}
        sampling = Sampling(**{name: value for name, value in values.items() if value is not None})
        return [
            self.to_request(
                llm,
                max_tokens=self.max_tokens,
                stop=tuple(self.stop_sequences or ()),
                sampling=sampling,
                progress=bool(self.stream),
            )
        ]
