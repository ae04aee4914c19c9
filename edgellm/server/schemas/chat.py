"""The body of `/v1/chat/completions`, and the `GenerationRequest` that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.server.schemas.fields import NeutralValues
from edgellm.server.schemas.message import ChatMessage
from edgellm.server.schemas.tools import ToolCallingBody
from edgellm.types.message import MAX_MESSAGES, Message
from edgellm.types.request import GenerationRequest

THINKS = "enable_thinking"  # the variable of templates that switches reasoning


class ChatBody(ToolCallingBody, kw_only=True):
    """POST /v1/chat/completions."""

    text_field = "messages"
    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "modalities": (["text"],),
        "audio": (),
        "moderation": (),
        "web_search_options": (),
        # A template is a program; the model's own is the only one that runs.
        "chat_template": (),
    }
    IGNORED = (
        *ToolCallingBody.IGNORED,
        "metadata",
        "prediction",  # a draft, which makes an answer faster and no other
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    )

    messages: Annotated[list[ChatMessage], Meta(max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    enable_thinking: Annotated[
        bool | None, Meta(description="Extension. Whether the model thinks first; also in chat_template_kwargs.")
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, Meta(description="Extension. Variables of the model's template, as enable_thinking.")
    ] = None
    add_generation_prompt: Annotated[bool | None, Meta(description="Extension. The template opens the answer.")] = None
    continue_final_message: Annotated[
        bool | None, Meta(description="Extension. Go on in the last message, which is then an assistant's.")
    ] = None

    truncate_prompt: Annotated[
        bool | None, Meta(description="Extension. Drop the oldest turns where the context does not hold all of them.")
    ] = None

    OWN_NAMES: ClassVar[Mapping[str, str]] = {"max_tokens": "max_completion_tokens"}

    def to_requests(self, llm: EdgeLLM) -> list[GenerationRequest]:
        """The one prompt that the model's chat template makes of the messages, with its settings.

        Raises:
            UsageError: a value is out of range, with the name of its field; what `EdgeLLM.request` raises.
        """
        tools, choice = self.wanted_tools()
        variables = dict(self.chat_template_kwargs or {})
        request = llm.request(
            self.conversation(),
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False and not self.legacy,
            thinking=self._thinks(variables.pop(THINKS, None)),
            reasoning_effort=self.reasoning_effort,
            template_kwargs=variables,
            add_generation_prompt=self._opens(),
            continue_final_message=bool(self.continue_final_message),
            max_tokens=self.limit(),
            stop=self.stops(),
            sampling=self.sampling(),
            ignore_eos=bool(self.ignore_eos),
            grammar=self.wanted_grammar(),
            top_logprobs=self.alternatives(),
            n=1 if self.n is None else self.n,
            progress=self.wants_progress,
            reuse=self.cache_prompt is not False,
            truncate=bool(self.truncate_prompt),
            adapters=self.wanted_adapters(),
        )
        return [request]

    def conversation(self) -> list[Message]:
        return [message.to_message(f"messages[{index}]") for index, message in enumerate(self.messages)]

    def alternatives(self) -> int | None:
        """How many likely tokens to tell for each one of the answer; None = no logprobs."""
        if not self.logprobs:
            if self.top_logprobs:
                raise UsageError("top_logprobs is only allowed with logprobs: true", param="top_logprobs")
            return None
        return self.top_logprobs or 0

    def limit(self) -> int | None:
        """The largest number of tokens in the answer; None = until the context is full."""
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise UsageError(
                f"max_tokens={self.max_tokens} and max_completion_tokens={self.max_completion_tokens} disagree",
                hint="send one of them",
                param="max_tokens",
            )
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    def _thinks(self, variable: object) -> bool | None:
        """`variable`: what the template's variables say of it."""
        where = f"chat_template_kwargs.{THINKS}"
        if not isinstance(variable, bool | None):
            raise UsageError(f"{where} is neither true nor false", hint="send one of them", param=where)
        if None not in (variable, self.enable_thinking) and variable != self.enable_thinking:
            raise UsageError(f"{THINKS} and {where} disagree", hint="send one of them", param=THINKS)
        return self.enable_thinking if variable is None else variable

    def _opens(self) -> bool:
        if self.continue_final_message and self.add_generation_prompt:
            what = "continue_final_message and add_generation_prompt ask for two things"
            raise UsageError(what, hint="send one of them", param="continue_final_message")
        return not self.continue_final_message and self.add_generation_prompt is not False
