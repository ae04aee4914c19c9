"""What runs here, as Ollama describes models."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from edgellm.catalog import lookup
from edgellm.contract.engine import EngineInfo
from edgellm.server.dialects.ollama.answers import written
from edgellm.server.dialects.ollama.options import OWN_NAMES
from edgellm.server.served_model import ServedModel
from edgellm.types.message import Tool
from edgellm.types.model import Artifact, ModelCard
from edgellm.types.plan import LaunchPlan
from edgellm.units import show_params

if TYPE_CHECKING:
    from edgellm.sdk.client import EdgeLLM
    from edgellm.types.model import Shape

NEVER = "2318-01-01T00:00:00Z"  # as long as Ollama itself means by "forever"
_ANY_TOOL = Tool("any")
_UNLESS = {"tools_prompted": "tools", "thinking_unsupported": "thinking"}  # note of a request -> Ollama's word


class OllamaDetails(msgspec.Struct, frozen=True):
    """ "" = not known."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str

    @classmethod
    def of(cls, artifact: Artifact) -> OllamaDetails:
        card, family = card_of(artifact), _family(artifact)
        size = show_params(card.params) if card is not None else ""
        return cls("", artifact.format, family, [family], size, artifact.quant)


class OllamaModel(msgspec.Struct, frozen=True, kw_only=True):
    """`size`: bytes of its files. `digest`: of its file, or of its name where it has no single file."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails

    @classmethod
    def of(cls, name: str, served: ServedModel) -> OllamaModel:
        artifact = served.llm.plan.artifact
        return cls(
            name=name,
            model=name,
            modified_at=modified_at(served),
            size=artifact.bytes,
            digest=_digest(artifact),
            details=OllamaDetails.of(artifact),
        )


class OllamaModelList(msgspec.Struct, frozen=True):
    models: list[OllamaModel]


class OllamaRunningModel(msgspec.Struct, frozen=True):
    """`size`: bytes of memory that it is planned to take, `size_vram` of them in GPUs."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int
    context_length: int

    @classmethod
    def of(cls, name: str, plan: LaunchPlan) -> OllamaRunningModel:
        artifact, footprint = plan.artifact, plan.footprint
        on_gpu = footprint.device_bytes if footprint else 0
        size = footprint.resident_bytes + on_gpu if footprint else artifact.bytes
        details = OllamaDetails.of(artifact)
        return cls(name, name, size, _digest(artifact), details, NEVER, on_gpu, plan.settings.n_ctx)


class OllamaRunningModels(msgspec.Struct, frozen=True):
    models: list[OllamaRunningModel]


class OllamaModelDescription(msgspec.Struct, frozen=True):
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    license: str | UnsetType = UNSET

    @classmethod
    def of(cls, served: ServedModel, info: EngineInfo) -> OllamaModelDescription:
        plan, card = served.llm.plan, card_of(served.llm.plan.artifact)
        drawn = {} if not info.generates else plan.sampling.values.said
        parameters = [(OWN_NAMES[name], f"{value:g}") for name, value in drawn.items()]
        return cls(
            "\n".join([f"FROM {served.id}", *(f"PARAMETER {name} {value}" for name, value in parameters), ""]),
            "\n".join(f"{name:30} {value}" for name, value in parameters),
            info.chat_template or "",
            OllamaDetails.of(plan.artifact),
            _model_info(plan.artifact, card, info),
            list(_capabilities(served.llm, info)),
            modified_at(served),
            card.license if card is not None and card.license else UNSET,
        )


def card_of(artifact: Artifact) -> ModelCard | None:
    """The catalog's row of the model; None where it has none."""
    return lookup.catalog().get(artifact.model_id)


def modified_at(served: ServedModel) -> str:
    """When its file was written or, where it has none, when it began to be served."""
    try:
        seconds = os.stat(served.llm.plan.artifact.path).st_mtime
    except OSError:
        seconds = served.created
    return written(datetime.fromtimestamp(seconds, UTC))


def _family(artifact: Artifact) -> str:
    return artifact.shape.arch if artifact.shape else artifact.format


def _digest(artifact: Artifact) -> str:
    return artifact.sha256 or hashlib.sha256(f"{artifact.model_id}:{artifact.quant}".encode()).hexdigest()


def _model_info(artifact: Artifact, card: ModelCard | None, info: EngineInfo) -> dict[str, Any]:
    """Under the names of GGUF. `context_length` is the one that is served: clients ask for as much as they see."""
    arch = _family(artifact)
    described = {
        "general.architecture": arch,
        f"{arch}.context_length": info.n_ctx,
        f"{arch}.vocab_size": info.vocab_size,
        **_shape_info(arch, artifact.shape),
    }
    if info.n_embd:
        described[f"{arch}.embedding_length"] = info.n_embd
    if card is not None:
        described["general.parameter_count"] = card.params
    return described


def _shape_info(arch: str, shape: Shape | None) -> dict[str, Any]:
    if shape is None:
        return {}
    return {
        f"{arch}.block_count": shape.n_layer,
        f"{arch}.embedding_length": shape.n_embd,
        f"{arch}.feed_forward_length": shape.n_ff,
        f"{arch}.attention.head_count": shape.n_head,
        f"{arch}.attention.head_count_kv": shape.n_head_kv,
    }


def _capabilities(llm: EdgeLLM, info: EngineInfo) -> Iterator[str]:
    """By Ollama's names."""
    if info.generates:
        yield "completion"
        yield from _of_template(llm, info)
    if "embed" in info.capabilities:
        yield "embedding"


def _of_template(llm: EdgeLLM, info: EngineInfo) -> Iterator[str]:
    from edgellm.text.infill import fills_in

    if info.chat_template is not None:
        notes = llm.request("hello", tools=[_ANY_TOOL], thinking=True).notes
        yield from (capability for note, capability in _UNLESS.items() if note not in notes)
    if fills_in(info):
        yield "insert"
