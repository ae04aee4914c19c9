"""What a class of processor does with each tensor type: which fast paths exist, and how fast they are as a prior.

Priors, not measurements of this machine: rates come from published runs and are scaled by class. They are those of
ggml's kernels, the reference for types of GGUF files; a backend with kernels of its own states their rates
(`edgellm.types.priors.KernelRate`). Sources: docs/explain/speed-model.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from edgellm.estimate.tensor_types import TYPES, TensorType
from edgellm.types.machine import Cpu
from edgellm.types.priors import NO_PRIORS, KernelRate

# 1e9 weights per second and core while decoding. Zen 4 at 5 GHz (ik_llama.cpp PR baselines); TQ1_0 and TQ2_0 on an EPYC
# at 2.6 GHz; I2_S from bitnet.cpp's rate there; rows marked E are estimates from a neighbour of the same structure.
_ZEN4 = {
    "Q2_K": 50.0, "Q3_K": 41.0, "Q4_K": 43.0, "Q5_K": 38.0, "Q6_K": 40.0, "Q4_0": 42.0, "Q8_0": 40.0, "IQ4_XS": 46.0,
    "IQ2_XXS": 25.0, "IQ2_XS": 24.5, "IQ2_S": 20.0, "IQ3_XXS": 19.0, "IQ3_S": 15.6, "TQ2_0": 50.0, "TQ1_0": 29.0,
    "I2_S": 55.0,
    "Q4_1": 42.0, "Q5_0": 32.0, "Q5_1": 32.0, "IQ4_NL": 42.0, "MXFP4": 42.0, "NVFP4": 30.0,  # E
    "INT4": 28.0, "INT8": 31.0,  # no ggml types: MatMulNBits (docs/benchmarks/log/onnx.md), where no backend runs them
    "Q1_0": 40.0, "Q2_0": 40.0, "IQ1_S": 20.0, "IQ1_M": 16.0, "F16": 25.0, "BF16": 20.0, "F32": 15.0,  # E
}  # fmt: skip
_M2 = {  # M2 Max, 4 threads, NEON (ik_llama.cpp)
    **_ZEN4,
    "Q4_K": 43.0, "Q2_K": 39.0, "Q6_K": 28.0, "IQ4_XS": 40.0,
    "IQ2_XS": 19.0, "IQ2_XXS": 16.5, "IQ2_S": 16.0, "IQ3_XXS": 13.0, "IQ3_S": 11.3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class IsaClass:
    """Processors that behave alike. `scale` multiplies the table; the factors are derived from board measurements."""

    name: str
    scale: float
    paths: frozenset[str]  # as in TensorType.repack and .gemm
    rates: Mapping[str, float] = field(default_factory=lambda: _ZEN4)
    simd_types: frozenset[str] | None = None  # types with a vector kernel; None = all

    def decode_gw_s(self, tensor_type: str, own: Mapping[str, KernelRate] = NO_PRIORS.rates) -> float:
        """Prior: 1e9 weights of this type consumed per second and core, one token at a time.

        Args:
            own: rates of a backend's own kernels; types without one count at ggml's.
        """
        if tensor_type in own:
            return own[tensor_type].decode_gw_s * self.scale
        rate = self.rates.get(tensor_type, 20.0) * self.scale
        return rate if self.simd_types is None or tensor_type in self.simd_types else rate / 3

    def prefill_gw_s(self, tensor_type: str, own: Mapping[str, KernelRate] = NO_PRIORS.rates) -> float:
        """Prior: the same for prompts, where a block is unpacked once for many tokens (C4)."""
        if tensor_type in own:
            return own[tensor_type].prefill_gw_s * self.scale
        kind = TYPES[tensor_type]
        if kind.repack & self.paths or kind.gemm & self.paths:
            gemm = self.decode_gw_s("Q4_K") * PREFILL_GAIN
            return gemm * CODEBOOK_PREFILL if kind.cost == "codebook" else gemm
        return self.decode_gw_s(tensor_type)


# Q4_K at 7950X, 5975WX, M2 Max and an EPYC VM: prompt rate per core over decode rate 1.5 to 2.3 (C4).
PREFILL_GAIN = 1.9
# IQ3_S and IQ2_S prompts ran at 0.53 and 0.59 of Q4_K's rate (7950X, C4).
CODEBOOK_PREFILL = 0.55


def _class(name: str, scale: float, paths: str, **more: object) -> IsaClass:
    return IsaClass(name, scale, frozenset(paths.split()), **more)  # type: ignore[arg-type]


AMX = _class("x86-64 with AMX", 1.0, "amx avx2 avx512 x86")
AVX512 = _class("x86-64 with AVX-512", 1.0, "avx2 avx512 x86")
AVX2 = _class("x86-64 with AVX2", 0.8, "avx2 x86")
AVX = _class("x86-64 with AVX, no AVX2", 0.25, "x86")  # estimate: half the width, no integer vectors
SSSE3 = _class("x86-64 with SSSE3", 0.05, "", simd_types=frozenset({"Q4_0", "Q1_0"}))
APPLE = _class("Apple silicon", 1.0, "dotprod", rates=_M2)
ARM_I8MM = _class("ARM with i8mm", 0.6, "dotprod", rates=_M2)  # estimate between A76 and M2
ARM_DOTPROD = _class("ARM with dotprod", 0.35, "dotprod", rates=_M2)  # Pi 5: 15 for Q4_K
ARM_NEON = _class("ARM with NEON, no dotprod", 0.03, "")  # Pi 4: 1.3 for Q4_K
SCALAR = _class("no vector unit llama.cpp knows", 0.01, "")  # estimate


@lru_cache
def isa_class(cpu: Cpu, os: str = "linux") -> IsaClass:
    """The class of a processor, from the instruction sets the operating system lets programs use."""
    isa = frozenset(cpu.isa)
    if cpu.arch in ("x86_64", "amd64", "i686", "i386"):
        for flag, found in (("amx_int8", AMX), ("avx512f", AVX512), ("avx2", AVX2), ("avx", AVX), ("ssse3", SSSE3)):
            if flag in isa:
                return found
        return SCALAR
    if cpu.arch in ("aarch64", "arm64") and (os in ("darwin", "macos") or "apple" in cpu.model.lower()):
        return APPLE
    for flag, found in (("i8mm", ARM_I8MM), ("dotprod", ARM_DOTPROD), ("neon", ARM_NEON)):
        if flag in isa:
            return found
    return ARM_NEON if cpu.arch in ("aarch64", "arm64") else SCALAR


def describe(kind: TensorType, cls: IsaClass) -> str:
    """What this class of processor does with a type, in words."""
    relative = cls.decode_gw_s(kind.name) / cls.decode_gw_s("Q4_K")
    if kind.cost == "codebook":
        unpack = "looks every block up in a table"
    elif kind.cost == "ternary":
        unpack = "divides by powers of three to unpack"
    else:
        unpack = "unpacks with shifts and masks" if kind.cost != "float" else "needs no unpacking"
    prompts = (
        "prompts use a repacked matrix product"
        if kind.repack & cls.paths
        else "prompts use a tiled matrix product"
        if kind.gemm & cls.paths
        else "prompts gain no matrix product"
    )
    return f"{unpack}: {relative:.2f}x the weights per second of Q4_K; {prompts}"
