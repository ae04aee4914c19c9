"""A catalog card for a model file or folder on this disk, made from its headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgellm.catalog.identify import inspect
from edgellm.catalog.recognize import recognize
from edgellm.errors import UnsupportedArtifact
from edgellm.estimate import architecture, quants
from edgellm.formats import hf_config
from edgellm.store.card import local_card
from edgellm.types.model import Artifact, ModelCard, ModelFile, Shape

PACKED = "I2_S"  # what ternary weights of a folder are loaded as: 2 bits each


def of(artifact: Artifact, cards: Sequence[ModelCard]) -> tuple[ModelCard, str]:
    """The card, with what `cards` know of the model, and where its facts come from.

    A mix of unknown name is taken as the nearest quantization.

    Raises:
        BadArtifact. UnsupportedArtifact: its memory cannot be predicted.
    """
    card, basis = _described(artifact, cards)
    return with_known_quants(card), basis


def _described(artifact: Artifact, cards: Sequence[ModelCard]) -> tuple[ModelCard, str]:
    path = artifact.path
    if artifact.format == "safetensors" and Path(path).is_dir():
        return recognize(_folder_card(artifact), cards), f"config.json and the headers in {path}"
    if artifact.format == "onnx":
        return _onnx_card(artifact), f"the graph's header and the configuration in {path}"
    if artifact.format != "gguf":
        raise UnsupportedArtifact(
            f"{path} is a model in {artifact.format}, whose memory is not predicted yet",
            hint="name a GGUF file, or the folder of a safetensors or ONNX model",
        )
    return recognize(local_card(Path(path)), cards), f"the header of {path}"


def _folder_card(artifact: Artifact) -> ModelCard:
    """The card of a Hugging Face folder: ternary weights count as they are packed when they are loaded."""
    summary = hf_config.summary_of(artifact.path)
    parts = architecture.tensors(summary.shape) or ()
    params = sum(part.elems * len(part.layers) for part in parts) or 1
    quant = PACKED if summary.is_ternary else summary.float_type
    if not quant:
        raise UnsupportedArtifact(
            f"{artifact.path} holds weights that are packed in a way not known here", hint="name a GGUF file of it"
        )
    size = None if summary.is_ternary else summary.tensor_bytes
    file = ModelFile(f"file:{artifact.path}", quant, "safetensors", summary.file_bytes, None, size, "header")
    card = _card(artifact, summary.shape, file, ctx_train=summary.ctx_train, params=params, source="its config.json")
    return replace(card, native_quant=PACKED) if summary.is_ternary else card


def _onnx_card(artifact: Artifact) -> ModelCard:
    """The card of an ONNX folder."""
    facts = inspect(artifact.path, artifact.format)
    if facts.shape is None or facts.quant not in quants.QUANTS:
        what = f"its weights are {facts.quant or 'of no known kind'}" if facts.shape else "no shape in its config.json"
        raise UnsupportedArtifact(f"{artifact.path} cannot be predicted: {what}", hint="run it to see what it takes")
    file = ModelFile(
        f"file:{artifact.path}", facts.quant, "onnx", facts.file_bytes, None, facts.tensor_bytes, "header"
    )  # fmt: skip
    params, source = max(1, facts.params), "its graph and configuration"
    card = _card(artifact, facts.shape, file, ctx_train=facts.ctx_train, params=params, source=source)
    return card if facts.generates else replace(card, kind="embedding")


def _card(artifact: Artifact, shape: Shape, file: ModelFile, *, ctx_train: int, params: int, source: str) -> ModelCard:
    """A chat model's, of which all parameters are active."""
    return ModelCard(
        artifact.model_id.lower(), shape.arch, "chat", "unknown", ctx_train, params, params, shape, (file,),
        source=source, trust="header",
    )  # fmt: skip


def with_known_quants(card: ModelCard) -> ModelCard:
    """With a quantization for each file that its name or bits tell; a mix of unknown name is taken as the nearest."""
    return replace(card, files=tuple(f if f.quant in quants.QUANTS else _nearest(f, card) for f in card.files))


def _nearest(file: ModelFile, card: ModelCard) -> ModelFile:
    bits = 8 * (file.tensor_bytes or 0) / card.params
    near = min((q for q in quants.QUANTS.values() if q.predictable), key=lambda q: abs(q.bits - bits))
    return replace(file, quant=near.name, trust=f"{file.trust}; a mix of unknown name, taken as {near.name}")
