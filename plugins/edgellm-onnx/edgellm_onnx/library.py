"""What the installed onnxruntime is and has; nothing here imports it.

A separate process finds out once. The answer is kept by the library's version and files, and by the processor.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgellm import settings
from edgellm.contract.probe import kept, probe_library
from edgellm_onnx.providers import PROVIDERS

PROBE_TIMEOUT_S = 60.0
START_TIMEOUT_S = 120.0  # a driver that compiles its kernels takes its time, once
PROBE_VERSION = 1  # of the questions: answers to others are not used


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problem` is empty where the library runs."""

    problem: str = ""
    version: str = ""
    providers: tuple[str, ...] = ()  # "CPUExecutionProvider"
    opset: int = 0  # newest operator set of ONNX's own that it runs
    operators: dict[str, frozenset[str]] = field(default_factory=dict)  # domain -> names


def installed() -> str:
    """Version of the package; "" = there is none."""
    if importlib.util.find_spec("onnxruntime") is None:
        return ""
    for name in dict.fromkeys(provider.package for provider in PROVIDERS.values()):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def build() -> str:
    """Names the library's code: version, and a digest of what the files are."""
    return f"onnxruntime {installed() or 'none'} ({_digest()[:8]})"


def verdict() -> Verdict:
    """The kept answer of the probe; probes when there is none (half a second, once)."""
    if not installed():
        return Verdict("onnxruntime is not installed: pip install onnxruntime")
    return kept(settings.current().cache_dir / "onnx-probe" / f"{_digest()[:24]}.json", Verdict, _probe)


@dataclass(frozen=True, slots=True)
class Start:
    """`problem` is empty where a provider computes."""

    problem: str = ""


def start_problem(provider: str, options: Mapping[str, str], device: str) -> str:
    """Why a provider does not start; "" = it does. Tried in a process of its own, until it does; that is kept."""
    asked = json.dumps({"provider": provider, "options": dict(options)}, sort_keys=True)
    key = hashlib.sha256(f"{_digest()} {asked} {device}".encode()).hexdigest()[:24]
    path = settings.current().cache_dir / "onnx-probe" / f"start-{key}.json"
    return kept(path, Start, lambda: _start(provider, asked)).problem


def _start(provider: str, asked: str) -> tuple[Start, bool]:
    # The name of the variable stands in `start.py`, which imports onnxruntime.
    tried = probe_library("edgellm_onnx.start", provider, START_TIMEOUT_S, {"ONNX_PROVIDER_TRIED": asked})
    problem = tried.problem
    if not problem:
        try:
            problem = msgspec.json.decode(tried.answer, type=Start).problem
        except (ValueError, TypeError):
            problem = f"it answers nonsense: {tried.answer[:200]}"
    return Start(f"{provider} does not start ({problem})" if problem else ""), not problem


@functools.cache
def _digest() -> str:
    """Of names, sizes and times of the native files, and the processor: hundreds of megabytes are not read for it."""
    spec = importlib.util.find_spec("onnxruntime")
    files = sorted(Path(spec.origin).parent.joinpath("capi").glob("*.*")) if spec is not None and spec.origin else []
    facts = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.is_file()]
    facts += [f"questions {PROBE_VERSION}", platform.machine(), platform.processor(), str(installed())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _probe() -> tuple[Verdict, bool]:
    """What the throwaway process finds, and whether it will find the same tomorrow."""
    probed = probe_library("edgellm_onnx.probe", "onnxruntime", PROBE_TIMEOUT_S)
    if probed.signal:
        return Verdict(f"{probed.problem}: install one for this processor"), probed.signal == "SIGILL"
    if probed.problem:
        return Verdict(probed.problem), False
    try:
        return msgspec.json.decode(probed.answer, type=Verdict), True
    except (ValueError, TypeError):
        return Verdict(f"onnxruntime's probe answers nonsense: {probed.answer[:200]}"), False
