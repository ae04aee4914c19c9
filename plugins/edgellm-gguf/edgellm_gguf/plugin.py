"""What edgellm-gguf registers: one backend. Light: `llama_cpp` is imported by `open` only, in a worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellm.contract.backend import Advice, Backend, Offload, loading_library
from edgellm.contract.engine import Engine
from edgellm.contract.hookspecs import hookimpl
from edgellm.errors import UnsupportedArtifact
from edgellm.formats.gguf.ggml_types import FILE_TYPES
from edgellm_gguf import device_backends, library

if TYPE_CHECKING:
    from edgellm.contract.device_build import BuiltDevices, DeviceBuild, StepProgress
    from edgellm.contract.quantizer import Quantization, TensorProgress
    from edgellm.formats.gguf.header import GgufHeader
    from edgellm.types.build_api import BuildApi
    from edgellm.types.calibration import Calibration
    from edgellm.types.device_trial import DeviceTrial
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact
    from edgellm.types.plan import Footprint, LaunchPlan, Settings
    from edgellm.types.priors import Repacking

# How `edgellm doctor` calls what shows that the library is the right one.
PROOFS = {
    "wheel": "from the binding's own wheel",
    "layout": "built here or for EdgeLLM: its table of structs is the binding's",
    "": "unproven",
}


class GgufBackend:
    """GGUF files on llama.cpp, through llama-cpp-python's low-level API."""

    name = "gguf"
    formats = frozenset({"gguf"})
    # llama.cpp reads NVFP4 and has no quantizer for it.
    quantizes_to = frozenset(FILE_TYPES.values()) - {"NVFP4"}
    # Every quant of mainline ggml; I2_S belongs to bitnet.cpp's fork and is not among them.
    quants = frozenset(
        {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L"}
        | {"Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"}
        | {"IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_XS", "IQ4_NL", "TQ1_0", "TQ2_0", "MXFP4"}
    )

    worker_environment = library.ENVIRONMENT

    # A quantized V needs flash attention, which the engine leaves to the library: it is on wherever one is computed.
    kv_types = frozenset({"f16", "q8_0", "q4_0"})

    def check(self, machine: Machine) -> list[str]:
        problem = library.missing() or library.verdict(machine).problem
        return [problem] if problem else []

    def advise(self, machine: Machine) -> list[Advice]:
        from edgellm_gguf import advice

        return advice.advise(machine)

    def offload(self, machine: Machine) -> Offload:
        if problem := next(iter(self.check(machine)), ""):
            return Offload(missing=problem)
        from edgellm.types.build_api import DEVICE_NAMES, WANTED

        verdict = library.verdict(machine)
        if verdict.devices:
            return Offload(verdict.devices)
        if verdict.unloaded:
            stale = next((api for api in DEVICE_NAMES if api in verdict.stale), None)
            return _built_by_setup(verdict.missing_backends(), stale, "builds it again")
        if verdict.gpu_backends:
            return Offload(missing=verdict.no_device())
        missing = "this libllama has no GPU backend"
        if not any(gpu.usable and gpu.kind in WANTED for gpu in machine.accelerators):
            return Offload(missing=missing)
        from edgellm_gguf.device_build.plan import usual_api

        return _built_by_setup(missing, usual_api(machine), "builds one beside it")

    def unproven(self, machine: Machine) -> str:
        return "" if self.check(machine) else library.verdict(machine).doubt()

    def architectures(self, machine: Machine) -> frozenset[str] | None:
        return None if self.check(machine) else library.verdict(machine).architectures

    def tensor_types(self, machine: Machine) -> frozenset[str] | None:
        return None if self.check(machine) else library.verdict(machine).tensor_types or None

    def repacking(self, machine: Machine, *, is_here: bool) -> Repacking:
        from edgellm_gguf import repacking

        if not is_here:
            return repacking.of_stock_build(machine.cpu, machine.os)
        return repacking.of_types(() if self.check(machine) else library.verdict(machine).repacked)

    def supports(self, artifact: Artifact) -> list[str]:
        if artifact.format not in self.formats:
            return [f"format {artifact.format!r} is not GGUF"]
        if artifact.quant and artifact.quant not in self.quants:
            return [f"llama.cpp has no type {artifact.quant}"]
        return []

    def footprint(self, artifact: Artifact, settings: Settings) -> Footprint | None:
        verdict = library.last_verdict()
        # What goes to a GPU is the core's to place.
        if artifact.format not in self.formats or not artifact.paths or settings.gpu_layers or verdict is None:
            return None
        from edgellm_gguf.footprint import of_file

        return of_file(artifact, settings, verdict.repacked)

    def scratch(self, artifact: Artifact, settings: Settings) -> dict[str, int]:
        from edgellm_gguf.reservation import scratch

        return scratch(artifact, settings)

    def open(self, plan: LaunchPlan) -> Engine:
        header = checked_header(plan.artifact.path)
        with loading_library("llama-cpp-python", RuntimeError, AttributeError):
            from edgellm_gguf.embedder import POOLING, LlamaEmbedder
            from edgellm_gguf.engine import LlamaEngine
        pooling = header.of_architecture("pooling_type")
        if isinstance(pooling, int) and pooling in POOLING:
            return LlamaEmbedder(plan, POOLING[pooling])
        return LlamaEngine(plan, header)

    def quantize(self, job: Quantization, progress: TensorProgress) -> None:
        with loading_library("llama-cpp-python", RuntimeError, AttributeError):
            from edgellm_gguf import quantize
        quantize.run(job, progress)

    def plan_devices(self, machine: Machine, api: BuildApi | None, architectures: tuple[str, ...]) -> DeviceBuild:
        from edgellm_gguf.device_build.plan import plan

        return plan(machine, api, architectures)

    def build_devices(self, build: DeviceBuild, progress: StepProgress) -> BuiltDevices:
        from edgellm_gguf.device_build.builder import compile_devices

        return compile_devices(build, progress)

    def build(self) -> str:
        return library.build()

    def calibrate(self, settings: Settings) -> Calibration:
        from edgellm_gguf.calibrate import calibrate

        return calibrate(tuple(sorted({1, settings.n_threads, settings.n_threads_batch})))

    def calibrate_device(self, device: str) -> tuple[DeviceTrial, ...]:
        with loading_library("llama-cpp-python", RuntimeError, AttributeError):
            from edgellm_gguf.device_calibrate import calibrate
        return calibrate(device)

    def describe(self) -> dict[str, str]:
        about = {"library": str(library.library_dir() or "not installed")}
        if not library.missing():
            about["build"] = library.build()
        if built := device_backends.libraries():
            about["GPU backends"] = ", ".join(f"{name} ({path})" for name, path in built.items())
        verdict = library.last_verdict()
        if verdict is not None and not verdict.problem:
            about["llama.cpp"] = f"{verdict.version}, {PROOFS[verdict.proof]}"
            if verdict.variant:
                about["variant"] = verdict.choice()
        return about


def checked_header(path: str) -> GgufHeader:
    """Of a file that native code may see: this code, which trusts no length, sees it before.

    Raises:
        BadArtifact. UnsupportedArtifact: its bytes are in the other order.
    """
    from edgellm.formats.gguf import vocabulary
    from edgellm.formats.gguf.reader import read_model

    header = read_model(path).header
    if header.big_endian != (sys.byteorder == "big"):
        raise UnsupportedArtifact(
            f"{path} has its bytes in the other order than this machine",
            hint="fetch the file for this byte order; gguf-convert-endian of the gguf package turns one around",
        )
    vocabulary.check(header)
    return header


def _built_by_setup(missing: str, api: BuildApi | None, does: str) -> Offload:
    """`api`: None = no build mends it."""
    return Offload(missing=missing, remedy=f"`edgellm gpu setup --{api}` {does}" if api else "", builds=api)


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    register(GgufBackend())
