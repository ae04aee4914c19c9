"""Bodies of `/v1/chat/completions` and `/v1/completions`, and the `GenerationRequest` that each becomes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

from msgspec import Meta

from edgellm.errors import UnsupportedField, UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.server.schemas.fields import Fields, FieldValues, NeutralValues, shortened
from edgellm.server.schemas.structured import StructuredBody
from edgellm.types.message import Message
from edgellm.types.request import MAX_INPUTS, MAX_STOPS, GenerationRequest
from edgellm.types.sampling import MAX_BIASES, Sampling

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 4096  # of a conversation, and parts of one message
# OpenAI's default for /v1/completions; chat has none.
COMPLETION_MAX_TOKENS = 16
_SAMPLING = Sampling.__struct_fields__


class TextPart(Fields, kw_only=True):
    """A part of a message's content."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": ("text",)}
    IGNORED = ("prompt_cache_breakpoint",)

    type: Literal["text"]
    text: str


class ChatMessage(Fields, kw_only=True):
    """One message. Several text parts are joined with nothing between them."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "refusal": (),
        "audio": (),
        "tool_calls": ([],),
        "tool_call_id": (),
        "function_call": (),
    }
    NOT_SUPPORTED_VALUES: ClassVar[FieldValues] = {"role": ("tool", "function")}
    IGNORED = ("name", "annotations")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Meta(max_length=MAX_MESSAGES)]

    def to_message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(ROLES[self.role], text)


class StreamOptions(Fields, kw_only=True):
    """Options of a stream."""

    IGNORED = ("include_obfuscation",)

    include_usage: bool | None = None


class GenerationBody(StructuredBody, kw_only=True):
    """What chat and plain completions share. Null is the same as absent."""

    example = '{"messages": [...]} or {"prompt": "..."}'
    NOT_SUPPORTED: ClassVar[NeutralValues] = {"n": (1,)}
    IGNORED: ClassVar[tuple[str, ...]] = ("user",)

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Annotated[
        Annotated[dict[str, float], Meta(max_length=MAX_BIASES)] | None, Meta(description="Token id, as text, to bias.")
    ] = None
    seed: int | None = None
    top_k: Annotated[int | None, Meta(description="Extension. Keep the k most likely tokens; 0 = off.")] = None
    min_p: Annotated[
        float | None, Meta(description="Extension. Least probability, relative to the most likely token.")
    ] = None
    typical_p: Annotated[float | None, Meta(description="Extension. Locally typical sampling.")] = None
    repetition_penalty: Annotated[float | None, Meta(description="Extension. 1 = off.")] = None
    penalty_last_n: Annotated[
        int | None, Meta(description="Extension. Number of tokens that penalties look back over; -1 = all.")
    ] = None
    ignore_eos: Annotated[bool | None, Meta(description="Extension. Go on after the model ends its answer.")] = None

    def __post_init__(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise UsageError("stream_options is only allowed with stream: true", param="stream_options")

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk that holds the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> Sampling:
        values = {name: getattr(self, name) for name in _SAMPLING}
        values["logit_bias"] = tuple(_bias(token, bias) for token, bias in (self.logit_bias or {}).items())
        return Sampling(**{name: value for name, value in values.items() if value is not None})

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatBody(GenerationBody, kw_only=True):
    """POST /v1/chat/completions."""

    text_field = "messages"
    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        **GenerationBody.NOT_SUPPORTED,
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "moderation": (),
        "reasoning_effort": ("none",),
        "web_search_options": (),
        # A template is a program; the model's own is the only one that runs.
        "chat_template": (),
    }
    IGNORED = (
        *GenerationBody.IGNORED,
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

    def to_request(self, llm: EdgeLLM) -> GenerationRequest:
        """The prompt that the model's chat template makes of the messages, with its settings.

        Raises:
            UsageError: a value is out of range, with the name of its field; what `EdgeLLM.request` raises.
        """
        return llm.request(
            [message.to_message() for message in self.messages],
            max_tokens=self.limit(),
            stop=self.stops(),
            sampling=self.sampling(),
            ignore_eos=bool(self.ignore_eos),
            grammar=self.wanted_grammar(),
            top_logprobs=self.alternatives(),
        )

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


class CompletionBody(GenerationBody, kw_only=True):
    """POST /v1/completions."""

    text_field = "prompt"
    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        **GenerationBody.NOT_SUPPORTED,
        "echo": (False,),
        "suffix": ("",),
        "best_of": (1,),
    }

    prompt: str | Annotated[list[str], Meta(max_length=MAX_INPUTS)]
    logprobs: Annotated[int | None, Meta(description="How many likely tokens to tell for each; 0 = only its own.")] = (
        None
    )

    def to_request(self, llm: EdgeLLM) -> GenerationRequest:
        """The text to continue, with its settings; `llm` is not needed for it.

        Raises:
            UsageError: a value is out of range, with the name of its field.
        """
        return GenerationRequest(
            self.text(),
            self.sampling(),
            self.limit(),
            self.stops(),
            ignore_eos=bool(self.ignore_eos),
            grammar=self.wanted_grammar(),
            top_logprobs=self.logprobs,
        )

    def text(self) -> str:
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) != 1:
            raise UnsupportedField(
                f"prompt holds {len(self.prompt)} texts, one is supported",
                hint="send one request for each text",
                param="prompt",
            )
        return self.prompt[0]

    def limit(self) -> int:
        """The largest number of tokens in the answer."""
        return COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens


BodyT = TypeVar("BodyT", ChatBody, CompletionBody)


def _bias(token: str, bias: float) -> tuple[int, float]:
    # "07" would mean the same token as "7".
    if not token.isascii() or not token.isdigit() or len(token) > 10 or (token[0] == "0" and token != "0"):
        raise UsageError(
            f"logit_bias has the key {shortened(token)}", hint='keys are token ids: {"42": -100}', param="logit_bias"
        )
    return int(token), bias
