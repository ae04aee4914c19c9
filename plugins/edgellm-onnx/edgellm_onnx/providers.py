"""Execution providers: what onnxruntime can compute a graph with, which of them is taken, and why.

A plan names a device of `devices.DEVICES`, and its provider is taken or refused. `provider=NAME` asks for one past the
plan; where that does not start, the CPU computes, and the log says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    options: Mapping[str, str] = field(default_factory=dict)  # of the first provider
    memory: str = ""  # where caches lie, as onnxruntime names devices ("cuda"); "" = in RAM
    planned: bool = False  # the plan counts on it: another one is refused, not taken

    @property
    def with_options(self) -> tuple[str | tuple[str, dict[str, str]], ...]:
        first, *rest = self.providers
        return ((first, dict(self.options)) if self.options else first, *rest)


def choose(choice: str, available: Sequence[str], devices: Sequence[str] = ()) -> Choice:
    """
    Args:
        choice: as in `Options.provider`.
        available: what the installed onnxruntime names.
        devices: of the plan (`Settings.devices`).
    """
    if choice == "auto" and devices:
        return _planned(devices[0], available)
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


def _planned(device: str, available: Sequence[str]) -> Choice:
    from edgellm_onnx.devices import kind_of

    kind = kind_of(device)
    if kind is None:
        return Choice((CPU,), "", f"the plan is for {device}, which is no device of onnxruntime", planned=True)
    provider = PROVIDERS[kind.provider]
    if provider.library not in available:
        problem = f"the plan is for {device}, and the installed onnxruntime has no {provider.library}"
        return Choice((CPU,), "", f"{problem} (pip install {provider.package})", planned=True)
    reason = f"{device}, as planned; the cache lies {'there' if kind.memory else 'in RAM'}"
    return Choice((provider.library, CPU), reason, options=kind.options, memory=kind.memory, planned=True)
