"""What edgellm-bitnet registers: one backend, and converters between ternary formats. Light: numpy and native code wait
until a model is opened, in a worker."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.contract.backend import Advice, Backend, loading_library
from edgellm.contract.child import ask
from edgellm.contract.engine import Engine
from edgellm.contract.hookspecs import hookimpl
from edgellm.errors import BackendUnavailable, EdgeLLMError, option
from edgellm_bitnet.options import ISA, LIBRARY, Options

if TYPE_CHECKING:
    from edgellm.contract.converter import Conversion, Converted, Converter
    from edgellm.contract.source import Progress
    from edgellm.formats.gguf.reader import GgufModel
    from edgellm.types.calibration import Calibration
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact, ModelCard
    from edgellm.types.plan import Footprint, LaunchPlan, Settings
    from edgellm.types.priors import Priors
    from edgellm_bitnet.architecture import Architecture

TARGETS = ("i2_s", "tq2_0", "tq1_0", "q2_0", "q1_0")  # types that `edgellm convert` writes
PROBE_TIMEOUT_S = 20.0
UNTESTED = ("i8mm", "dotprod", "neon")  # run under an emulator only


class BitnetBackend:
    """Ternary models on this package's own kernels."""

    name = "bitnet"
    formats = frozenset({"gguf", "safetensors"})
    quants = frozenset({"I2_S", "TQ2_0", "TQ1_0", "Q2_0", "Q1_0"})
    kv_types = frozenset({"f16", "q8_0"})

    def check(self, machine: Machine) -> list[str]:
        library = _library()
        if not library.exists():
            if os.environ.get(LIBRARY):
                return [f"{LIBRARY}={library}: there is no such file"]
            return [f"{library.name} is not built: reinstall edgellm-bitnet where there is a C compiler"]
        return _wrong_kernels() if os.environ.get(ISA) else []

    def advise(self, machine: Machine) -> list[Advice]:
        named = [name for name in (LIBRARY, ISA) if os.environ.get(name)]
        return [Advice(text, f"mend or unset {' and '.join(named)}") for text in self.check(machine) if named]

    def architectures(self, machine: Machine) -> frozenset[str]:
        from edgellm_bitnet.architecture import FAMILIES

        return frozenset(FAMILIES)

    def tensor_types(self, machine: Machine) -> None:
        return None  # what it computes with follows from the quantization

    def supports(self, artifact: Artifact) -> list[str]:
        from edgellm_bitnet.architecture import FAMILIES

        if artifact.format not in self.formats:
            return [f"format {artifact.format!r} is neither GGUF nor a safetensors folder"]
        if artifact.quant and artifact.quant not in self.quants:
            return [f"{artifact.quant} is not a ternary type"]
        shape = artifact.shape
        if shape is not None and shape.arch not in FAMILIES:
            return [f"architecture {shape.arch!r} is not one of {', '.join(FAMILIES)}"]
        return _inside(artifact) if artifact.paths and Path(artifact.path).exists() else []

    def footprint(self, artifact: Artifact, settings: Settings) -> Footprint | None:
        from edgellm_bitnet.footprint import footprint

        if artifact.format != "gguf" or not artifact.paths or not Path(artifact.path).exists():
            return None
        try:
            arch, model = _header(artifact.path)
            return footprint(arch, {t.name: t for t in model.tensors}, settings, _options(settings))
        except EdgeLLMError:
            return None  # said again, loudly, when it is opened

    def open(self, plan: LaunchPlan) -> Engine:
        options = _options(plan.settings)
        if plan.settings.gpu_layers:
            raise BackendUnavailable(
                "the bitnet backend computes on the CPU only", hint=f"leave {option('gpu_layers')} out"
            )
        if plan.artifact.format == "gguf":
            _header(plan.artifact.path)  # refused here, before native code sees the file
        with loading_library("the ternary engine"):
            from edgellm_bitnet.engine import open_engine
        return open_engine(plan, options)

    def check_options(self, options: Sequence[tuple[str, str]]) -> None:
        Options.parse(options)

    def build(self) -> str:
        library = _library()
        digest = hashlib.sha256(library.read_bytes()).hexdigest() if library.exists() else "not built"
        return f"edgellm-bitnet {importlib.metadata.version('edgellm-bitnet')} ({digest[:8]})"

    def calibrate(self, settings: Settings) -> Calibration:
        from edgellm_bitnet.calibration import calibrate

        return calibrate(tuple(sorted({1, settings.n_threads, settings.n_threads_batch})))

    def priors(self) -> Priors:
        from edgellm_bitnet.priors import PRIORS

        return PRIORS

    def describe(self) -> dict[str, str]:
        about = {"library": str(_library())}
        answer, end = ask("edgellm_bitnet.probe", timeout_s=PROBE_TIMEOUT_S)
        if end.returncode:
            return about | {"kernels": f"the library does not load here: {end.last_words}"}
        probed = json.loads(answer)
        kernels = {
            name + (" (tested under an emulator only)" if name in UNTESTED else ""): usable
            for name, usable in probed["kernels"].items()
        }
        usable = ", ".join(name for name, runs in kernels.items() if runs)
        others = ", ".join(name for name, runs in kernels.items() if not runs)
        about["kernels"] = f"{probed['best'] or 'none'} in use; usable: {usable}"
        return about | ({"not for this processor": others} if others else {})


def _inside(artifact: Artifact) -> list[str]:
    """What the files themselves say against it."""
    from edgellm_bitnet.inspection import folder_reasons, reasons

    if artifact.format != "gguf":
        return folder_reasons(artifact.path)
    try:
        arch, model = _header(artifact.path)
    except EdgeLLMError as error:
        return [str(error)]
    return reasons(arch, {tensor.name: tensor for tensor in model.tensors})


def _wrong_kernels() -> list[str]:
    """What is wrong with the kernels that the environment names; a library that does not load is told elsewhere."""
    answer, end = ask("edgellm_bitnet.probe", timeout_s=PROBE_TIMEOUT_S)
    problem = "" if end.returncode else json.loads(answer)["problem"]
    return [problem] if problem else []


def _library() -> Path:
    from edgellm_bitnet import native

    return native.path()


def _options(settings: Settings) -> Options:
    return Options.parse(settings.options)


def _header(path: str) -> tuple[Architecture, GgufModel]:
    from edgellm.formats.gguf.reader import read_model
    from edgellm_bitnet.architecture import from_gguf

    model = read_model(path)
    return from_gguf(model.header, model.tensors), model


def _from_gguf(conversion: Conversion, progress: Progress) -> Converted:
    from edgellm_bitnet.convert_gguf import convert

    return convert(conversion, progress)


def _from_folder(conversion: Conversion, progress: Progress) -> Converted:
    from edgellm_bitnet.convert_folder import convert

    return convert(conversion, progress)


@hookimpl
def register_converters(register: Callable[[str, str, Converter], None]) -> None:
    for target in TARGETS:
        register("gguf", target, _from_gguf)
        register("safetensors", target, _from_folder)


@hookimpl
def register_models(register: Callable[[ModelCard], None]) -> None:
    from edgellm_bitnet.models import TINY_TERNARY

    register(TINY_TERNARY)


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    register(BitnetBackend())
