"""A request as a person writes it, on the command line, in Python or in a fleet's file: sizes and layers are text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypedDict

from msgspec import Struct
from msgspec.structs import replace

from edgellm.types.adapter import AskedFiles, adapter_files
from edgellm.types.checks import check_names, check_types, plain_numbers
from edgellm.types.request import SelectionRequest, Task, cache_type, layers_on_gpu, slot_count
from edgellm.types.sampling import Sampling, SamplingKeywords
from edgellm.units import parse_bytes, parse_tokens

CacheChoice = Literal["auto", "f32", "f16", "q8_0", "q4_0"]
LayersChoice = int | Literal["auto", "all"]
SlotsChoice = int | Literal["auto"]


class SelectionOptions(Struct, frozen=True, kw_only=True):
    """What selection is asked for. None = decide for me."""

    task: Task | None = None  # what the model is for; None = chat, or what a named model is for
    ctx: int | None = None  # tokens per request, in calls also as "8k"; None = as long as memory and speed allow
    min_tps: float | None = None  # slowest acceptable rate, tokens per second; None = the task's speed floor
    max_memory: int | str | None = None  # bytes, or text such as "2GiB"; None = what is free, less a reserve
    max_download: int | str | None = None  # the same for a file that must be fetched; None = as large as it is
    backend: str | None = None
    slots: int | str = 1  # requests answered at the same time, more wait; "auto" = what memory and speed allow, up to 4
    threads: int | None = None  # to compute with; None = what fits the machine
    gpu_layers: int | str = "auto"  # a number, "all", or "auto" for as many as fit
    kv: str = "auto"  # type of the cache: "f16", "q8_0", "q4_0", or "auto": f16, smaller where that buys something
    offline: bool = False  # only what is on this disk
    thinking: bool = False  # models that can think before they answer, or not, do: slower, and better

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Options by name. Raises UsageError for an unknown one, and for one of another type."""
        check_names(options, cls.__struct_fields__)
        if isinstance(ctx := options.get("ctx"), str):
            options["ctx"] = parse_tokens(ctx)
        if isinstance(sampling := options.get("sampling"), Mapping):
            options["sampling"] = Sampling.of(**sampling)
        if "adapters" in options:
            options["adapters"] = adapter_files(options["adapters"])
        asked = cls(**plain_numbers(options))
        # Names and counts that may be words are checked where the request is made, which lists what there is.
        check_types(replace(asked, task=None, slots=1, gpu_layers=0), "these options cannot be used")
        return asked

    def request(self, *, usual_task: Task = "chat") -> SelectionRequest:
        """The request that is meant.

        Raises:
            UsageError: a value is out of range or cannot be understood.
        """
        return SelectionRequest(
            task=self.task or usual_task,
            ctx=self.ctx,
            min_tps=self.min_tps,
            max_memory_bytes=_bytes(self.max_memory, "max_memory"),
            max_download_bytes=_bytes(self.max_download, "max_download"),
            backend=self.backend,
            slots=slot_count(self.slots),
            offline=self.offline,
            thinking=self.thinking,
            threads=self.threads,
            gpu_layers=layers_on_gpu(self.gpu_layers),
            kv_type=cache_type(self.kv),
        )


def _bytes(size: int | str | None, name: str) -> int | None:
    return parse_bytes(size, name) if isinstance(size, str) else size


class LaunchOptions(SelectionOptions, frozen=True, kw_only=True):
    """What is asked for where a model is also loaded."""

    quant: str | None = None  # of a model that is named
    options: Mapping[str, str] | None = None  # settings that the backend defines
    sampling: Sampling | None = None  # for requests that leave it open, before what is recommended for the model
    adapters: tuple[str, ...] = ()  # LoRA adapters to load beside it, as FILE or NAME=FILE; in calls also by name


class SelectionKeywords(TypedDict, total=False):
    """`SelectionOptions` as keyword arguments."""

    task: Task | None
    ctx: int | str | None
    min_tps: float | None
    max_memory: int | str | None
    max_download: int | str | None
    backend: str | None
    slots: SlotsChoice
    threads: int | None
    gpu_layers: LayersChoice
    kv: CacheChoice
    offline: bool
    thinking: bool


class LaunchKeywords(SelectionKeywords, total=False):
    """`LaunchOptions` as keyword arguments."""

    quant: str | None
    options: Mapping[str, str] | None
    sampling: Sampling | SamplingKeywords | None
    adapters: AskedFiles | None
