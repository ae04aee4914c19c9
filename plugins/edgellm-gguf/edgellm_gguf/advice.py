"""Why this libllama does not run here, is unproven, or is slower than it could be, and what mends it. Imports no
`llama_cpp`."""

from __future__ import annotations

import os
import re

from edgellm.contract.backend import Advice
from edgellm.types.machine import Machine
from edgellm_gguf import library
from edgellm_gguf.verdict import Verdict

# What a processor has -> what ggml calls a build that uses it (ggml-cpu.cpp, `ggml_backend_cpu_get_features`).
FEATURES = {
    "avx2": "AVX2", "avx_vnni": "AVX_VNNI", "avx512f": "AVX512", "avx512vnni": "AVX512_VNNI",
    "avx512bf16": "AVX512_BF16", "amx_int8": "AMX_INT8", "dotprod": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE",
}  # fmt: skip
STANDS_FOR = {"AVX512_VNNI": "AVX_VNNI"}  # the same products, of wider registers


def advise(machine: Machine) -> list[Advice]:
    """Empty where the library is the right one, runs, and uses what the processor has."""
    if missing := library.missing():
        return [Advice(missing, _rebuild())]
    verdict = library.verdict(machine)
    if verdict.problem:
        return [Advice(verdict.problem, _rebuild())]
    rows = [Advice(text, _rebuild()) for text in (verdict.doubt(), _unused(machine, verdict)) if text]
    return rows + ([Advice(verdict.missing_backends(), "install what it names")] if verdict.unloaded else [])


def _unused(machine: Machine, verdict: Verdict) -> str:
    """Without a list of what it uses, nothing can be said."""
    used = set(re.findall(r"(\w+) = 1", verdict.system_info))
    used |= {feature for name, feature in STANDS_FOR.items() if name in used}
    names = [name for name, feature in FEATURES.items() if name in machine.cpu.isa and feature not in used]
    return f"this libllama does not use {', '.join(names)}, which this processor has" if used and names else ""


def _rebuild() -> str:
    """A line that gives another library; set-up builds none where the variable names one."""
    folder = os.environ.get("LLAMA_CPP_LIB_PATH")
    if folder:
        return f"put a libllama built on this machine into {folder}, or unset LLAMA_CPP_LIB_PATH and `make setup`"
    return (
        "`make setup` builds it for this machine (without a checkout: pip install --force-reinstall llama-cpp-python)"
    )
