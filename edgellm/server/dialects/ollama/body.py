"""What Ollama's bodies share: the name of the model, how long it would stay loaded, and what an answer has to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.server.dialects.ollama.options import OWN_NAMES, OllamaOptions
from edgellm.server.schemas.fields import RequestBody
from edgellm.server.schemas.keep_alive import STAYS, KeepAlive, unloads
from edgellm.types.grammar import ANY_OBJECT, Grammar
from edgellm.types.message import Message, Tool
from edgellm.types.request import GenerationRequest


class OllamaBody(RequestBody, kw_only=True):
    """Of requests to the model."""

    OWN_NAMES: ClassVar[Mapping[str, str]] = {
        **{ours: f"options.{theirs}" for ours, theirs in OWN_NAMES.items()},
        **{name: f"options.{name}" for name in ("seed", "stop")},
        "max_tokens": "options.num_predict",
    }

    keep_alive: KeepAlive = None
    options: OllamaOptions | None = None

    def __post_init__(self) -> None:
        unloads(self.keep_alive)

    def settled_options(self, llm: EdgeLLM) -> OllamaOptions:
        """The options, none of which asks for more than there is.

        Raises:
            UsageError: a longer context is asked for.
        """
        options = self.options or OllamaOptions()
        options.check_context(llm.info.n_ctx, llm.plan.artifact.ctx_train)
        return options


class OllamaGenerationBody(OllamaBody, kw_only=True):
    """What chat and plain generation share. Null is the same as absent."""

    example = '{"messages": [...]} or {"prompt": "..."}'
    # The context is never shifted: a full one ends the answer.
    IGNORED = ("shift",)

    stream: Annotated[bool | None, Meta(description="True unless given.")] = None
    format: Annotated[
        Literal["", "json"] | dict[str, Any] | None, Meta(description="Any JSON object, or JSON under this schema.")
    ] = None
    think: Annotated[
        bool | Literal["low", "medium", "high", "max"] | None, Meta(description="Whether to think, or how much.")
    ] = None
    truncate: Annotated[
        bool | None, Meta(description="The oldest messages are left out where all are too long, unless this is false.")
    ] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Meta(description="How many likely tokens to tell for each, up to 20.")] = None

    def asked(
        self, llm: EdgeLLM, options: OllamaOptions, conversation: Sequence[Message], tools: Sequence[Tool] = ()
    ) -> GenerationRequest:
        """The request that a conversation becomes.

        Raises:
            UsageError: a value is out of range, with the name of its field; what `EdgeLLM.request` raises.
        """
        return llm.request(
            conversation,
            tools=tools,
            thinking=self.think if isinstance(self.think, bool) else None,
            reasoning_effort=self.think if isinstance(self.think, str) else None,
            max_tokens=options.limit(),
            stop=options.stops(),
            sampling=options.sampling(),
            grammar=self.wanted_grammar(),
            top_logprobs=self.alternatives(),
            truncate=self.truncate is not False,
        )

    def wanted_grammar(self) -> Grammar | None:
        if isinstance(self.format, dict):
            return Grammar.of_schema(self.format, "format", closed=True)
        return Grammar("json_schema", ANY_OBJECT, "format") if self.format else None

    def notes(self, requests: Sequence[GenerationRequest]) -> list[str]:
        """What was asked for and does not happen as it was asked."""
        stays = [STAYS] if unloads(self.keep_alive) else []
        return [*(note for request in requests for note in request.notes), *stays]

    def alternatives(self) -> int | None:
        """How many likely tokens to tell for each one of the answer; None = no logprobs."""
        if not self.logprobs:
            if self.top_logprobs:
                raise UsageError("top_logprobs is only allowed with logprobs: true", param="top_logprobs")
            return None
        return self.top_logprobs or 0
