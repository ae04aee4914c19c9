"""What edgellm-onnx registers. Light: onnxruntime and onnx are imported where a model is opened or converted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgellm.contract.backend import Advice, Backend, Offload, loading_library
from edgellm.contract.engine import Engine
from edgellm.contract.hookspecs import hookimpl
from edgellm.errors import BackendUnavailable, EdgeLLMError, option
from edgellm_onnx import library
from edgellm_onnx.bert_backend import LARGE_PAGES, BertBackend
from edgellm_onnx.options import Options

if TYPE_CHECKING:
    from edgellm.contract.converter import Conversion, Converted, Converter
    from edgellm.contract.source import Progress
    from edgellm.types.calibration import Calibration
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact, ModelFacts
    from edgellm.types.plan import Footprint, LaunchPlan, Settings
    from edgellm.types.priors import Priors


class OnnxBackend:
    """ONNX decoders and encoders on plain onnxruntime."""

    name = "onnx"
    formats = frozenset({"onnx"})
    quants = frozenset({"INT4", "INT8", "F16", "BF16", "F32"})
    worker_environment = LARGE_PAGES
    kv_types = frozenset({"f32"})  # as nearly all graphs have it; a folder's own footprint counts what its graph says

    def check(self, machine: Machine) -> list[str]:
        problem = library.verdict().problem
        return [problem] if problem else []

    def supports(self, artifact: Artifact) -> list[str]:
        if artifact.format not in self.formats:
            return [f"format {artifact.format!r} is not ONNX"]
        if not artifact.paths:
            return []
        from edgellm_onnx.model import problems, read_model

        try:
            return problems(read_model(artifact.path), library.verdict())
        except EdgeLLMError as error:
            return [str(error)]

    def inspect(self, path: str) -> ModelFacts:
        from edgellm_onnx.reader.summary import facts_of

        return facts_of(path)

    def footprint(self, artifact: Artifact, settings: Settings) -> Footprint | None:
        # What goes to a device is the core's to place.
        if artifact.format not in self.formats or not artifact.paths or settings.gpu_layers:
            return None
        from edgellm_onnx.footprint import footprint
        from edgellm_onnx.model import read_model

        try:
            return footprint(read_model(artifact.path), settings, Options.parse(settings.options))
        except EdgeLLMError:
            return None  # said again, loudly, when it is opened

    def open(self, plan: LaunchPlan) -> Engine:
        from edgellm.types.request import ALL_LAYERS

        options = Options.parse(plan.settings.options)
        if plan.settings.gpu_layers != (ALL_LAYERS if plan.settings.devices else 0):
            raise BackendUnavailable(
                "the onnx backend puts no single layers on a GPU",
                hint=f"leave {option('gpu_layers')} out; the option provider names a GPU",
            )
        with loading_library("onnxruntime"):
            from edgellm_onnx.opening import open_engine
        return open_engine(plan, options)

    def check_options(self, options: Sequence[tuple[str, str]]) -> None:
        Options.parse(options)

    def advise(self, machine: Machine) -> list[Advice]:
        from edgellm_onnx.advice import advise

        return advise(machine)

    def accelerators(self, machine: Machine) -> Offload | None:
        from edgellm_onnx.devices import offload

        return None if self.check(machine) else offload(machine)

    def build(self) -> str:
        return library.build()

    def calibrate(self, settings: Settings) -> Calibration:
        from edgellm_onnx.calibration import calibrate

        return calibrate(tuple(sorted({1, settings.n_threads, settings.n_threads_batch})))

    def priors(self) -> Priors:
        from edgellm_onnx.priors import PRIORS

        return PRIORS

    def describe(self) -> dict[str, str]:
        verdict = library.verdict()
        if verdict.problem:
            return {"library": verdict.problem}
        names = ", ".join(name.removesuffix("ExecutionProvider") for name in verdict.providers)
        return {"library": f"onnxruntime {verdict.version}, operator sets up to {verdict.opset}", "providers": names}


def _from_gguf(conversion: Conversion, progress: Progress) -> Converted:
    from edgellm_onnx.convert import convert

    return convert(conversion, progress)


def _from_bert(conversion: Conversion, progress: Progress) -> Converted:
    from edgellm_onnx.convert_bert import convert

    return convert(conversion, progress)


@hookimpl
def register_converters(register: Callable[[str, str, Converter], None]) -> None:
    register("gguf", "onnx", _from_gguf)
    register("safetensors", "onnx", _from_bert)


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    register(OnnxBackend())
    register(BertBackend())
