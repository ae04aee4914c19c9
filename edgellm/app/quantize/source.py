"""What a model is quantized from: the file that was named, or the best one of the model that is here."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.app import context
from edgellm.catalog import lookup
from edgellm.catalog.identify import identify
from edgellm.catalog.recognize import recognize
from edgellm.contract.source import Progress, scheme_of
from edgellm.errors import UnknownModel, UnsupportedArtifact, UsageError
from edgellm.estimate import file_recipe, quants
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufModel
from edgellm.store import manifest
from edgellm.store.card import local_card
from edgellm.store.library import MADE, TWICE, Library, silent
from edgellm.store.sources.local_file import LocalFile
from edgellm.store.sources.registry import sources
from edgellm.types.model import Artifact, ModelCard


@dataclass(frozen=True, slots=True)
class Source:
    artifact: Artifact
    content: GgufModel
    card: ModelCard
    in_catalog: bool
    lossy: bool  # it was quantized before, whatever type it has now

    @property
    def key(self) -> str:
        """Another text for another content."""
        found = os.stat(self.artifact.path)
        return self.artifact.sha256 or f"{self.artifact.path} {found.st_size} {found.st_mtime_ns}"


def find(model: str, progress: Progress = silent) -> Source:
    """The source that `model` names: a path, a catalog id, or `id:QUANT`, which is fetched where it is not here.

    Raises:
        UnknownModel, BadArtifact, UnsupportedArtifact, SourceError. UsageError: an address.
    """
    scheme = scheme_of(model)
    if scheme == "file":
        model = str(LocalFile.path_of(model))
    elif scheme in sources():
        hint = "fetch it first, with edgellm run; `edgellm models --installed` shows its file then"
        raise UsageError(f"{model} is an address", hint=hint)
    rows = context.cards(twice=True)
    ids = {row.id for row in lookup.catalog().values()} | {row.id for row in rows if row.trust != "header"}
    name, _, quant = model.partition(":")
    if os.path.exists(model) and name.lower() not in ids:
        artifact = identify(model)
        content = _readable(artifact)
        stored = next(
            (s for s in Library().installed() if s.files and same_file(s.artifact().path, artifact.path)), None
        )
        row = next((row for row in rows if stored is not None and row.id == stored.model_id), None)
        if row is None:
            row = recognize(local_card(Path(artifact.path)), [row for row in rows if row.id in ids])
        lossy = stored is not None and stored.source.startswith(TWICE)
        return Source(replace(artifact, model_id=row.id), content, row, row.id in ids, lossy)
    row = lookup.find(name, rows)
    artifact, lossy = _stored(row, quant, progress)
    return Source(artifact, _readable(artifact), row, True, lossy)


def _stored(row: ModelCard, quant: str, progress: Progress) -> tuple[Artifact, bool]:
    """The best file of the model that is here: what was published before what was made, then by bits."""
    library = Library()
    here = [s for s in library.installed() if s.model_id == row.id and s.format == "gguf" and not s.problem]
    wanted = [s for s in here if not quant or s.quant.lower() == quant.lower()]
    best = sorted(wanted, key=lambda s: (s.source.startswith(MADE), -_bits(s.quant), s.quant))
    for stored in best:
        checked = manifest.check(stored)
        if not checked.problem:
            return checked.artifact(), checked.source.startswith(TWICE)
    # What lies on this disk; with a quantization named, what can be fetched, too.
    local = [f for f in row.files if f.source.startswith("file:") and quant.lower() in ("", f.quant.lower())]
    local.sort(key=lambda file: -_bits(file.quant))
    local += [f for f in row.files if quant and f.quant.lower() == quant.lower()]
    if local:
        return library.fetch(row, local[0], progress), False
    offered = ", ".join(sorted({file.quant for file in row.files}, key=lambda name: -_bits(name)))
    what = f"{row.id} {quant}".strip()
    raise UnknownModel(
        f"no file of {what} is here", hint=f"name one to fetch, as {row.id}:QUANT, of: {offered or 'none'}"
    )


def _bits(quant: str) -> float:
    found = quants.QUANTS.get(quant)
    return found.bits if found else 0.0


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
