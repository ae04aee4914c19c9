"""The devices that providers compute on: how plans call them, which of the machine's accelerators they are, how fast.

A device is listed where its provider is installed and starts there (a process of its own tries), and where one
accelerator of its kind is here: of several, onnxruntime's numbers tell nobody which is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgellm.contract.backend import Device, Offload
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.priors import ProviderPrior, ProviderRate
from edgellm_onnx import library
from edgellm_onnx.providers import PROVIDERS

UNPUBLISHED = "nothing is published of how fast {} decodes language models"
# Of onnxruntime-genai 0.2 with onnxruntime 1.18: microsoft/Phi-3-mini-4k-instruct-onnx on an A100 80GB, one text, the
# first 256 tokens after prompts of 16 to 2,048: 218 to 133 tok/s in INT4, 125 to 92 in FP16. Our formula has llama.cpp
# at 344 to 293 and 153 to 142 on the same shape in Q4_0 and F16: factors of 0.45 to 0.63 and 0.65 to 0.81. The low end
# is a quarter lower, as onnxruntime alone lacks what its generating library adds; the high end is llama.cpp's rate.
CUDA = ProviderRate("cuda", (0.34, 0.63, 1.0), None, "Phi-3-mini-4k-instruct-onnx's model card, A100")
# The same card has 267 to 218 tok/s on an RTX 4090 in INT4 with DirectML, where our formula has llama.cpp's Vulkan at
# 325 to 285: 0.76 to 0.82. Without the generating library half of that was seen (onnxruntime-genai issue 836).
DIRECTML = ProviderRate("vulkan", (0.34, 0.6, 0.9), None, "Phi-3-mini-4k-instruct-onnx's model card, RTX 4090")


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """What a provider computes on, by what plans call it without its number."""

    provider: str  # of PROVIDERS
    accelerators: frozenset[str]
    rate: ProviderRate | None = None
    memory: str = ""  # as onnxruntime names it, where caches lie there; "" = in RAM
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def prior(self) -> ProviderPrior:
        name = PROVIDERS[self.provider].library
        reason = "" if self.rate is not None else UNPUBLISHED.format(name)
        return ProviderPrior(name, self.rate, reason, copies_cache=not self.memory)


_SAME = "kSameAsRequested"  # memory grows by what is asked for, not by powers of two
DEVICES: Mapping[str, DeviceKind] = MappingProxyType({
    "CUDA": DeviceKind("cuda", frozenset({"cuda"}), CUDA, "cuda", {"device_id": "0", "arena_extend_strategy": _SAME}),
    "DML": DeviceKind("dml", frozenset({"cuda", "rocm", "xe"}), DIRECTML, options={"device_id": "0"}),
    "MIGraphX": DeviceKind("migraphx", frozenset({"rocm"}), options={"device_id": "0"}),
    "OpenVINOGPU": DeviceKind("openvino", frozenset({"xe"}), options={"device_type": "GPU"}),
    "OpenVINONPU": DeviceKind("openvino", frozenset({"npu"}), options={"device_type": "NPU"}),
    # No accelerator: never planned, for trying the whole way without one.
    "OpenVINOCPU": DeviceKind("openvino", frozenset(), options={"device_type": "CPU"}),
    "CoreML": DeviceKind("coreml", frozenset({"metal"})),
    "QNN": DeviceKind("qnn", frozenset({"qnn", "npu"})),
    "WebGPU": DeviceKind("webgpu", frozenset({"vulkan", "metal"})),
})  # fmt: skip


def kind_of(device: str) -> DeviceKind | None:
    """Of `"CUDA0"`; None = no provider calls a device so."""
    return DEVICES.get(device.rstrip("0123456789"))


def offload(machine: Machine) -> Offload | None:
    """The devices of the installed providers here, each accelerator once; None = this build computes on the CPU."""
    verdict = library.verdict()
    kinds = {name: kind for name, kind in DEVICES.items() if PROVIDERS[kind.provider].library in verdict.providers}
    if not any(kind.accelerators for kind in kinds.values()):
        return None
    devices, problems, placed = [], [], set[int]()
    for name, kind in kinds.items():
        own = [gpu for gpu in machine.accelerators if gpu.usable and gpu.kind in kind.accelerators]
        if len(own) != 1 or id(own[0]) in placed:
            if len(own) > 1:
                problems.append(f"{_library(kind)} does not say which of {len(own)} devices its numbers mean")
            continue
        if problem := library.start_problem(_library(kind), kind.options, own[0].name):
            problems.append(problem)
            continue
        placed.add(id(own[0]))
        devices.append(_device(name, kind, own[0], machine))
    names = ", ".join(dict.fromkeys(_library(kind) for kind in kinds.values()))
    missing = "" if devices else "; ".join(problems) or f"{names}: no device of its kind is here"
    return Offload(tuple(devices), missing, problems=tuple(problems))


def _device(name: str, kind: DeviceKind, gpu: Accelerator, machine: Machine) -> Device:
    total = gpu.vram_bytes or machine.memory.total_bytes
    return Device(f"{name}0", f"{gpu.name} ({_library(kind)})", total, gpu.free_bytes, gpu.unified, gpu.slot)


def _library(kind: DeviceKind) -> str:
    return PROVIDERS[kind.provider].library
