"""What the bodies of `/v1/chat/completions` and `/v1/completions` share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields
from edgellm.server.schemas.keep_alive import STAYS, KeepAlive, unloads
from edgellm.server.schemas.structured import StructuredBody
from edgellm.types.adapter import MAX_ADAPTERS, AdapterSet


class StreamOptions(Fields, kw_only=True):
    """Options of a stream."""

    IGNORED = ("include_obfuscation",)

    include_usage: bool | None = None


class AdapterField(Fields, kw_only=True):
    """A LoRA adapter that is loaded, and how much of it counts."""

    name: str
    scale: float | None = None


class GenerationBody(StructuredBody, kw_only=True):
    """What chat and plain completions share. Null is the same as absent."""

    example = '{"messages": [...]} or {"prompt": "..."}'
    IGNORED: ClassVar[tuple[str, ...]] = ("user",)

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: Annotated[int | None, Meta(description="How many answers; 1 unless given.")] = None
    cache_prompt: Annotated[
        bool | None, Meta(description="Extension. False: nothing that an earlier request computed is used.")
    ] = None
    return_progress: Annotated[
        bool | None, Meta(description="Extension of streams. Chunks tell how much of the prompt has been read.")
    ] = None
    timings_per_token: Annotated[bool | None, Meta(description="Extension of streams. Each chunk has timings.")] = None
    adapters: Annotated[
        Annotated[list[AdapterField], Meta(max_length=MAX_ADAPTERS)] | None,
        Meta(description="Extension. LoRA adapters that answer; [] = the model alone."),
    ] = None
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

    def wanted_adapters(self) -> AdapterSet | None:
        """None = nothing is said."""
        if self.adapters is None:
            return None
        return tuple((one.name, 1.0 if one.scale is None else one.scale) for one in self.adapters)

    def notes(self) -> list[str]:
        """What was asked for and does not happen as it was asked."""
        return [STAYS] if unloads(self.keep_alive) else []
