"""What the bodies of `/v1/chat/completions` and `/v1/completions` share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields, shortened
from edgellm.server.schemas.keep_alive import STAYS, KeepAlive, unloads
from edgellm.server.schemas.structured import StructuredBody
from edgellm.types.request import MAX_STOPS
from edgellm.types.sampling import MAX_BIASES, Sampling

_SAMPLING = Sampling.__struct_fields__


class StreamOptions(Fields, kw_only=True):
    """Options of a stream."""

    IGNORED = ("include_obfuscation",)

    include_usage: bool | None = None


class GenerationBody(StructuredBody, kw_only=True):
    """What chat and plain completions share. Null is the same as absent."""

    example = '{"messages": [...]} or {"prompt": "..."}'
    IGNORED: ClassVar[tuple[str, ...]] = ("user",)

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: Annotated[int | None, Meta(description="How many answers; 1 unless given.")] = None
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
    repeat_penalty: Annotated[float | None, Meta(description="Extension. repetition_penalty by another name.")] = None
    penalty_last_n: Annotated[
        int | None, Meta(description="Extension. Number of tokens that penalties look back over; -1 = all.")
    ] = None
    ignore_eos: Annotated[bool | None, Meta(description="Extension. Go on after the model ends its answer.")] = None
    cache_prompt: Annotated[
        bool | None, Meta(description="Extension. False: nothing that an earlier request computed is used.")
    ] = None
    return_progress: Annotated[
        bool | None, Meta(description="Extension of streams. Chunks tell how much of the prompt has been read.")
    ] = None
    timings_per_token: Annotated[bool | None, Meta(description="Extension of streams. Each chunk has timings.")] = None
    keep_alive: KeepAlive = None

    def __post_init__(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise UsageError("stream_options is only allowed with stream: true", param="stream_options")
        unloads(self.keep_alive)

    def without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super().without_effect()
        # Clients send it with every request (Jan), and an answer that comes whole has nowhere to tell it.
        if self.return_progress and not self.stream:
            yield "return_progress", ""

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk that holds the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_progress(self) -> bool:
        """Whether the chunks are made with what is told of the prompt."""
        return bool(self.stream and (self.return_progress or self.timings_per_token))

    def notes(self) -> list[str]:
        """What was asked for and does not happen as it was asked."""
        return [STAYS] if unloads(self.keep_alive) else []

    def sampling(self) -> Sampling:
        values = {name: getattr(self, name) for name in _SAMPLING}
        values["repetition_penalty"] = self._penalty()
        values["logit_bias"] = tuple(_bias(token, bias) for token, bias in (self.logit_bias or {}).items())
        return Sampling(**{name: value for name, value in values.items() if value is not None})

    def _penalty(self) -> float | None:
        one, other = self.repetition_penalty, self.repeat_penalty
        if None not in (one, other) and one != other:
            what = f"repetition_penalty={one} and repeat_penalty={other} disagree"
            raise UsageError(what, hint="send one of them", param="repeat_penalty")
        return other if one is None else one

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def _bias(token: str, bias: float) -> tuple[int, float]:
    # "07" would mean the same token as "7".
    if not token.isascii() or not token.isdigit() or len(token) > 10 or (token[0] == "0" and token != "0"):
        raise UsageError(
            f"logit_bias has the key {shortened(token)}", hint='keys are token ids: {"42": -100}', param="logit_bias"
        )
    return int(token), bias
