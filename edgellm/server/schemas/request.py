"""Request bodies: which fields there are, which are refused by name, and what nouns they become.

Nothing is ignored. A field of OpenAI's that is not served yet is `Inert`: accepted with the values that ask for
nothing, refused by name with any other. A field that nobody knows is refused by name too. Ranges are checked by the
nouns (`edgellm.types.request`), so that HTTP, command line and SDK refuse a value with the same words.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from edgellm.errors import UnsupportedField, UsageError
from edgellm.types.request import Message, Sampling

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# OpenAI's default for /v1/completions; chat has none.
COMPLETION_MAX_TOKENS = 16


class Inert:
    """Type of a field that is not served yet: null and `harmless` values ask for nothing and are accepted."""

    def __init__(self, *harmless: Any) -> None:
        self._harmless = (None, *harmless)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"enum": list(self._harmless), "description": "Not supported yet; accepted where it asks for nothing."}

    def _check(self, value: Any) -> Any:
        # 1 == True in Python, not in JSON.
        if any(type(value) is type(known) and value == known for known in self._harmless):
            return value
        raise PydanticCustomError("unsupported_field", "{value} is not supported yet", {"value": _short(value)})


class Unused:
    """Type of a field that says something about the caller, not about the answer: accepted with any value."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.any_schema()

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"description": "Accepted; it changes nothing here."}


class PartType:
    """Type of `content[].type`: "text"; other kinds of content are refused by name."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"const": "text"}

    def _check(self, value: Any) -> Any:
        if value != "text":
            raise PydanticCustomError(
                "unsupported_field", "content of type {value} is not supported yet, only text", {"value": _short(value)}
            )
        return value


class Role:
    """Type of `role`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"enum": list(ROLES)}

    def _check(self, value: Any) -> Any:
        if isinstance(value, str) and value in ROLES:
            return value
        if value in ("tool", "function"):
            raise PydanticCustomError(
                "unsupported_field", "role {value} is not supported yet", {"value": _short(value)}
            )
        raise PydanticCustomError(
            "unknown_role",
            "{value} is not a role; roles are {roles}",
            {"value": _short(value), "roles": ", ".join(ROLES)},
        )


class Strict(BaseModel):
    """No unknown fields, no conversions: "5" is not 5."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Whole(Strict):
    """The body of a request."""

    text_field: ClassVar[str]  # the one that holds what the model reads
    shown: ClassVar[str] = '{"messages": [...]} or {"prompt": "..."}'  # in the refusal of what is no object

    model: str | None = Field(None, description="An id of /v1/models; absent, `default` or `edgellm`: what is served.")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The body of a request.

        Raises:
            UnsupportedField, UsageError: with the field's name.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise _refusal(error.errors(include_url=False)[0], cls) from None


class TextPart(Strict):
    type: Annotated[Any, PartType()]
    text: str


def _one_or_many(value: Any) -> str:
    return "<many>" if isinstance(value, list) else "<one>"


# The tags name the branch, so that an error speaks of the one that was meant; `_path` takes them out again.
Content = Annotated[
    Annotated[str, Tag("<one>")] | Annotated[list[TextPart], Tag("<many>")], Discriminator(_one_or_many)
]
Texts = Annotated[Annotated[str, Tag("<one>")] | Annotated[list[str], Tag("<many>")], Discriminator(_one_or_many)]


class ChatMessage(Strict):
    """One message. Several text parts are joined with nothing between them."""

    role: Annotated[Any, Role()]
    content: Content
    name: Annotated[Any, Inert()] = None
    refusal: Annotated[Any, Inert()] = None
    annotations: Annotated[Any, Inert([])] = None
    audio: Annotated[Any, Inert()] = None
    tool_calls: Annotated[Any, Inert([])] = None
    tool_call_id: Annotated[Any, Inert()] = None
    function_call: Annotated[Any, Inert()] = None

    def noun(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(ROLES[self.role], text)


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, Inert(False)] = None


class Body(Whole):
    """What chat and plain completions share. Null is the same as absent."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    stop: Texts | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = Field(None, description="Token id, as text, to bias.")
    seed: int | None = None
    top_k: int | None = Field(None, description="Extension. Keep the k most likely tokens; 0 = off.")
    min_p: float | None = Field(None, description="Extension. Least probability, relative to the most likely token.")
    typical_p: float | None = Field(None, description="Extension. Locally typical sampling.")
    repetition_penalty: float | None = Field(None, description="Extension. 1 = off.")
    penalty_last_n: int | None = Field(None, description="Extension. Tokens penalties look back over; -1 = all.")
    ignore_eos: bool | None = Field(None, description="Extension. Go on after the model ends its answer.")
    n: Annotated[Any, Inert(1)] = None
    user: Annotated[Any, Unused()] = None

    def sampling(self) -> Sampling:
        given = {field.name: getattr(self, field.name) for field in dataclass_fields(Sampling)}
        given["logit_bias"] = tuple(_bias(token, bias) for token, bias in (self.logit_bias or {}).items())
        return Sampling(**{name: value for name, value in given.items() if value is not None})

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage(self) -> bool:
        if self.stream_options is not None and not self.stream:
            raise UsageError("stream_options is only allowed with stream: true", param="stream_options")
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatBody(Body):
    """POST /v1/chat/completions."""

    text_field = "messages"

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    tools: Annotated[Any, Inert([])] = None
    tool_choice: Annotated[Any, Inert("none", "auto")] = None
    parallel_tool_calls: Annotated[Any, Inert(True, False)] = None
    functions: Annotated[Any, Inert([])] = None
    function_call: Annotated[Any, Inert("none", "auto")] = None
    response_format: Annotated[Any, Inert({"type": "text"})] = None
    logprobs: Annotated[Any, Inert(False)] = None
    top_logprobs: Annotated[Any, Inert(0)] = None
    modalities: Annotated[Any, Inert(["text"])] = None
    audio: Annotated[Any, Inert()] = None
    prediction: Annotated[Any, Inert()] = None
    reasoning_effort: Annotated[Any, Inert("none")] = None
    verbosity: Annotated[Any, Inert("medium")] = None
    web_search_options: Annotated[Any, Inert()] = None
    store: Annotated[Any, Inert(False)] = None
    service_tier: Annotated[Any, Inert("auto", "default")] = None
    metadata: Annotated[Any, Unused()] = None
    safety_identifier: Annotated[Any, Unused()] = None
    prompt_cache_key: Annotated[Any, Unused()] = None
    prompt_cache_retention: Annotated[Any, Unused()] = None

    def limit(self) -> int | None:
        """Most tokens of the answer."""
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise UsageError(
                f"max_tokens={self.max_tokens} and max_completion_tokens={self.max_completion_tokens} disagree",
                hint="send one of them",
                param="max_tokens",
            )
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens


class CompletionBody(Body):
    """POST /v1/completions."""

    text_field = "prompt"

    prompt: Texts
    echo: Annotated[Any, Inert(False)] = None
    suffix: Annotated[Any, Inert("")] = None
    best_of: Annotated[Any, Inert(1)] = None
    logprobs: Annotated[Any, Inert()] = None

    def text(self) -> str:
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) != 1:
            raise UnsupportedField(
                f"prompt holds {len(self.prompt)} texts, one is supported",
                hint="send one request a text",
                param="prompt",
            )
        return self.prompt[0]

    def limit(self) -> int:
        return COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens


B = TypeVar("B", bound=Body)
Kind = Literal["chat", "completion"]


def _bias(token: str, bias: float) -> tuple[int, float]:
    if not token.isascii() or not token.isdigit() or len(token) > 10:
        raise UsageError(
            f"logit_bias has the key {_short(token)}", hint='keys are token ids: {"42": -100}', param="logit_bias"
        )
    return int(token), bias


def _refusal(detail: ErrorDetails, body: type[Whole]) -> UsageError:
    """The first thing that is wrong with a body, in our words."""
    kind, where, message = detail["type"], _path(detail["loc"]), detail["msg"]
    if kind == "unsupported_field":
        return UnsupportedField(f"{where}: {message}", hint="leave it out", param=where)
    if kind == "extra_forbidden":
        return UsageError(f"there is no field {where}", hint=_suggestion(detail["loc"], body), param=where)
    if kind == "json_invalid":
        return UsageError(f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}", hint="send a JSON object")
    if kind == "missing":
        return UsageError(f"{where} is required", hint="see /docs", param=where)
    if not where:
        return UsageError("the body is not a JSON object", hint=f"send {body.shown}")
    return UsageError(f"{where}: {message[:1].lower()}{message[1:]}", hint="see /docs", param=where)


def _suggestion(loc: Sequence[int | str], body: type[Whole]) -> str:
    near = difflib.get_close_matches(str(loc[-1]), body.model_fields, n=1) if len(loc) == 1 else []
    return f"did you mean {near[0]}?" if near else "see /docs for the fields there are"


def _path(loc: Sequence[int | str]) -> str:
    """`("messages", 0, "content", "<many>", 1)` -> `"messages[0].content[1]"`, as OpenAI writes it."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not part.startswith("<"):
            text += f".{_short(part, quote=False)}" if text else _short(part, quote=False)
    return text


def _short(value: Any, *, quote: bool = True) -> str:
    """A value of the client's in an error text, cut where it is long."""
    text = repr(value) if quote else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
