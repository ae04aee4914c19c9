"""What a backend knows of itself before anything is measured or downloaded: pure data, on which predictions rest."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from edgellm.types.gpu import Api


class KernelRate(Struct, frozen=True):
    """Speed of one kernel, in 1e9 weights per second on one core of an x86-64 processor with AVX-512 (Zen 4, 5 GHz).

    Other classes of processor are scaled from it (`edgellm.estimate.isa.IsaClass.scale`).
    """

    decode_gw_s: float  # one token at a time
    prefill_gw_s: float  # prompts, many tokens at once


class ExportRule(Struct, frozen=True):
    """How exporters write one format, which gives the size of a file and of its cache before it is downloaded.

    Every matrix is stored in the type that the quantization is named after, except the embedding table.
    """

    format: str  # as in `ModelFile.format`
    table_types: Mapping[str, str]  # quantization -> type of the embedding table, and of an output table tied to it
    full_cache: bool = False  # every layer caches the whole context, whatever its window


class Repacking(Struct, frozen=True):
    """Which matrices a build copies into another layout while it loads."""

    types: frozenset[str] = frozenset()  # of tensors, as in GGUF tools ("Q4_K")
    row_multiple: int = 1  # a matrix with another number of rows stays as it is


class ProviderRate(Struct, frozen=True):
    """How fast a library is on a GPU: low end, middle and high end, as factors of what llama.cpp is predicted there."""

    api: Api  # of llama.cpp, that it is compared with
    decode: tuple[float, float, float]
    prefill: tuple[float, float, float] | None  # None = nothing is published
    source: str  # where the figures are published


class ProviderPrior(Struct, frozen=True):
    """A library of a backend that computes whole models on one device each."""

    name: str  # as the library is called: "CUDAExecutionProvider"
    rate: ProviderRate | None = None
    unpredicted: str = ""  # why there is no rate
    copies_cache: bool = False  # the cache lies in RAM, and every step copies it there and back


class Priors(Struct, frozen=True):
    """`rates`: tensor type -> speed of the backend's own kernel; types without one count at ggml's rates."""

    rates: Mapping[str, KernelRate] = {}
    export: ExportRule | None = None
    providers: Mapping[str, ProviderPrior] = {}  # by what its devices are called, without their number ("CUDA")


NO_PRIORS, NO_REPACKING = Priors(), Repacking()
