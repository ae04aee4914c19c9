"""Execution providers: what onnxruntime can compute a graph with, which of them is taken here, and why.

The cache lives in the machine's own memory. For a provider with its own memory it is copied at every step, so none is
used unless asked for. `provider=NAME` asks for one. Where it does not start, the CPU computes, and the log says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Provider:
    """One kind of hardware. `accelerators` are kinds of `edgellm.types.machine.Accelerator`."""

    library: str  # as onnxruntime names it
    package: str  # that brings it
    accelerators: frozenset[str] = frozenset()
    os: str = ""  # where it runs; "" = anywhere


PROVIDERS = {
    "cpu": Provider(CPU, "onnxruntime"),
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", frozenset({"cuda"})),
    "tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu", frozenset({"cuda"})),
    "migraphx": Provider("MIGraphXExecutionProvider", "onnxruntime-migraphx", frozenset({"rocm"})),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino", frozenset({"xe", "npu"})),
    "dml": Provider("DmlExecutionProvider", "onnxruntime-directml", frozenset({"cuda", "rocm", "xe"}), "windows"),
    "coreml": Provider("CoreMLExecutionProvider", "onnxruntime", frozenset({"metal"}), "darwin"),
    "qnn": Provider("QNNExecutionProvider", "onnxruntime-qnn", frozenset({"qnn", "npu"})),
    "vitisai": Provider("VitisAIExecutionProvider", "onnxruntime-vitisai", frozenset({"npu"})),
    "webgpu": Provider("WebGpuExecutionProvider", "onnxruntime-webgpu", frozenset({"vulkan", "metal"})),
    "xnnpack": Provider("XnnpackExecutionProvider", "an onnxruntime built with it"),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Providers to make a session with, the first that takes an operator computes it, and the reason in words."""

    providers: tuple[str, ...]
    reason: str
    problem: str = ""  # why what was asked for is not taken; "" = it is


def choose(choice: str, available: Sequence[str]) -> Choice:
    """`available`: what the installed onnxruntime names."""
    others = [name for name, provider in PROVIDERS.items() if provider.library in available and name != "cpu"]
    if choice in ("auto", "cpu"):
        reason = "the CPU, as asked" if choice == "cpu" else "the CPU: it computes in the memory that holds the cache"
        alternatives = f"; installed too: {', '.join(others)} (provider=NAME)" if others and choice == "auto" else ""
        return Choice((CPU,), reason + alternatives)
    provider = PROVIDERS[choice]
    if provider.library in available:
        return Choice((provider.library, CPU), f"{choice}, as asked; the cache is copied to it at every step")
    problem = f"provider={choice}: the installed onnxruntime has no {provider.library} (pip install {provider.package})"
    return Choice((CPU,), f"the CPU, because {problem}", problem)
