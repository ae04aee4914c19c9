"""The file that a quantization starts from: the one that was named, or the model's best one on this disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.app import own_format
from edgellm.app.resolve import ReferenceKind, named_cards, named_model, refer
from edgellm.catalog.recognize import recognize
from edgellm.contract.source import Progress
from edgellm.errors import UnknownModel, UnsupportedArtifact, UsageError
from edgellm.estimate import file_recipe, quants
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufModel
from edgellm.selection.context import SelectionContext
from edgellm.store import manifest
from edgellm.store.card import HEADER, local_card
from edgellm.store.library import MADE, TWICE, Library, silent
from edgellm.types.model import Artifact, ModelCard


@dataclass(frozen=True, slots=True)
class QuantizeSource:
    artifact: Artifact
    content: GgufModel
    card: ModelCard
    in_catalog: bool
    lossy: bool  # it was quantized before, whatever type it has now

    @property
    def key(self) -> str:
        """Changes when the content does."""
        status = os.stat(self.artifact.path)
        return self.artifact.sha256 or f"{self.artifact.path} {status.st_size} {status.st_mtime_ns}"


def find(model: str, context: SelectionContext, progress: Progress = silent) -> QuantizeSource:
    """The source that `model` names: a path, a catalog id, or `id:QUANT`, which is fetched where it is not here.

    Raises:
        UnknownModel, BadArtifact, UnsupportedArtifact, SourceError. UsageError: an address.
    """
    # A card that was read off a file on this disk names that file.
    listed = [card for card in context.cards if card.trust != HEADER]
    reference = refer(model, listed)
    if reference.kind is ReferenceKind.ADDRESS:
        hint = "fetch it first, with edgellm run; `edgellm models --installed` shows its file then"
        raise UsageError(f"{model} is an address", hint=hint)
    if reference.kind is ReferenceKind.FILE:
        return _of_file(reference.name, named_cards(context), listed)
    card = named_model(reference.name, context).card
    artifact, lossy = _stored(card, reference.quant or "", progress)
    return QuantizeSource(artifact, _readable(artifact), card, True, lossy)


def _of_file(path: str, cards: Sequence[ModelCard], listed: Sequence[ModelCard]) -> QuantizeSource:
    artifact = own_format.identified(path)
    content = _readable(artifact)
    stored = Library().at(artifact.path)
    card = next((card for card in cards if stored and card.id == stored[0].model_id), None)
    if card is None:
        card = recognize(local_card(Path(artifact.path)), listed)
    lossy = any(entry.source.startswith(TWICE) for entry in stored)
    in_catalog = card.id in {other.id for other in listed}
    return QuantizeSource(replace(artifact, model_id=card.id), content, card, in_catalog, lossy)


def _stored(card: ModelCard, quant: str, progress: Progress) -> tuple[Artifact, bool]:
    """The model's best file on this disk: published ones before those made here, then by bits."""
    library = Library()
    sources = {file.source for file in card.files}
    of_card = [s for s in library.installed() if s.model_id == card.id or s.source in sources]
    here = [s for s in of_card if s.format == "gguf" and not s.problem]
    candidates = [s for s in here if not quant or s.quant.lower() == quant.lower()]
    best = sorted(candidates, key=lambda s: (s.source.startswith(MADE), -_bits(s.quant), s.quant))
    for stored in best:
        checked = manifest.check(stored)
        if not checked.problem:
            return replace(checked.artifact(), model_id=card.id), checked.source.startswith(TWICE)
    # What lies on this disk; with a quantization named, what can be fetched, too.
    local = [f for f in card.files if f.source.startswith("file:") and quant.lower() in ("", f.quant.lower())]
    local.sort(key=lambda file: -_bits(file.quant))
    local += [f for f in card.files if quant and f.quant.lower() == quant.lower()]
    if local:
        return library.fetch(card, local[0], progress), False
    offered = ", ".join(sorted({file.quant for file in card.files}, key=lambda name: -_bits(name)))
    what = f"{card.id} {quant}".strip()
    raise UnknownModel(
        f"no file of {what} is here", hint=f"name one to fetch, as {card.id}:QUANT, of: {offered or 'none'}"
    )


def _bits(quant: str) -> float:
    recipe = quants.QUANTS.get(quant)
    return recipe.bits if recipe else 0.0


def same_file(a: str, b: str) -> bool:
    """Whether two paths lead to one file."""
    return os.path.realpath(a) == os.path.realpath(b)


def _readable(source: Artifact) -> GgufModel:
    """The source's header.

    Raises:
        UnsupportedArtifact: no GGUF, big-endian, or an architecture whose rules are not known.
    """
    if source.format != "gguf":
        raise UnsupportedArtifact(
            f"{source.path} is of format {source.format}, the quantizer reads GGUF",
            hint="`edgellm convert` writes ternary models; others: llama.cpp's convert_hf_to_gguf.py",
        )
    content = reader.read_model(source.path)
    if content.header.big_endian:
        raise UnsupportedArtifact(f"{source.path} is big-endian", hint="quantize it on a machine that is too")
    if content.header.architecture in file_recipe.UNKNOWN_RULES:
        raise UnsupportedArtifact(
            f"which types {content.header.architecture} gets is not known here", hint="use llama.cpp's llama-quantize"
        )
    return content
