"""What would let onnxruntime use hardware that this machine has, and a line that gets it. Imports no `onnxruntime`."""

from __future__ import annotations

from edgellm.contract.backend import Advice
from edgellm.types.machine import Machine
from edgellm_onnx import library
from edgellm_onnx.devices import DEVICES
from edgellm_onnx.providers import PROVIDERS


def advise(machine: Machine) -> list[Advice]:
    """Empty where the library runs and nothing here has a provider that is not installed."""
    verdict = library.verdict()
    if verdict.problem:
        return [Advice(verdict.problem, "pip install --force-reinstall onnxruntime")]
    advice = []
    for accelerator in {gpu.kind: gpu for gpu in machine.accelerators}.values():
        fitting = {
            name: provider
            for name, provider in PROVIDERS.items()
            if accelerator.kind in provider.accelerators and provider.os in ("", machine.os)
        }
        if not fitting or any(provider.library in verdict.providers for provider in fitting.values()):
            continue
        name, provider = next(iter(fitting.items()))
        text = f"onnxruntime computes on the CPU; {accelerator.name} has a provider of its own, {name}"
        rated = any(kind.provider == name and kind.rate is not None for kind in DEVICES.values())
        then = "plans then weigh it" if rated else f"then --option provider={name}, as its speed is not predicted"
        package = '"onnxruntime-gpu[cuda,cudnn]"' if name == "cuda" else provider.package
        advice.append(Advice(text, f"pip install {package} in place of onnxruntime; {then}"))
    return advice
