"""The backend `onnx-bert`: BERT folders of safetensors, whose graph is built while they load. Light until then."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgellm.contract.backend import loading_library
from edgellm.contract.engine import Engine
from edgellm.errors import BackendUnavailable, EdgeLLMError, option

if TYPE_CHECKING:
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact
    from edgellm.types.plan import Footprint, LaunchPlan, Settings

# Measured with all-MiniLM-L6-v2: the process with its libraries, and a batch of 512 tokens.
PROCESS_BYTES, COMPUTE_BYTES = 90 * 1024**2, 16 * 1024**2
# glibc asks for large pages for what onnxruntime allocates: SmolLM2 in 4 bits, one thread, 9 ms a token instead of 12
# to 16. Another C library does not read it.
LARGE_PAGES = MappingProxyType({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
LIBRARIES = ("onnx", "onnxruntime", "tokenizers")


class BertBackend:
    """Sentence models and cross-encoders as their publishers store them."""

    name = "onnx-bert"
    formats = frozenset({"safetensors"})
    quants = frozenset({"F32", "F16", "BF16"})
    worker_environment = LARGE_PAGES

    def check(self, machine: Machine) -> list[str]:
        missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        return [f"{', '.join(missing)} is not installed: pip install edgellm-onnx"] if missing else []

    def architectures(self, machine: Machine) -> frozenset[str]:
        return frozenset({"bert"})

    def tensor_types(self, machine: Machine) -> None:
        return None  # what it computes with follows from the quantization

    def supports(self, artifact: Artifact) -> list[str]:
        if artifact.format not in self.formats:
            return [f"format {artifact.format!r} is not a safetensors folder"]
        if not artifact.paths or not Path(artifact.path).exists():
            return []
        from edgellm_onnx.bert_config import bert_config

        try:
            bert_config(Path(artifact.path))
        except EdgeLLMError as error:
            return [error.message]
        return []

    def footprint(self, artifact: Artifact, settings: Settings) -> Footprint | None:
        """Weights are there twice: onnxruntime's, and the graph they came in, which its session keeps.

        While it loads there is a third copy, of the graph as onnxruntime parses it.
        """
        if artifact.format not in self.formats or not artifact.bytes:
            return None
        from edgellm.types.plan import Footprint

        weights = artifact.bytes * (2 if artifact.quant in ("F16", "BF16") else 1)
        return Footprint(weights, 0, COMPUTE_BYTES + weights, PROCESS_BYTES, repack_bytes=weights)

    def open(self, plan: LaunchPlan) -> Engine:
        if plan.settings.gpu_layers:
            raise BackendUnavailable("encoders are computed on the CPU here", hint=f"leave {option('gpu_layers')} out")
        with loading_library("onnxruntime"):
            from edgellm_onnx.encoder import EncoderEngine
        return EncoderEngine(plan, Path(plan.artifact.path))

    def describe(self) -> dict[str, str]:
        from edgellm_onnx.library import installed

        return {"library": f"onnxruntime {installed()}"}
