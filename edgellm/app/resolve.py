"""From what a person writes (a catalog id, a file, an address) to one catalog row, without fetching weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm import settings
from edgellm.catalog import lookup
from edgellm.catalog.identify import identify, inspect
from edgellm.catalog.recognize import recognize
from edgellm.contract.source import Resolver, scheme_of
from edgellm.errors import SourceError, SourceUnreachable, UnsupportedArtifact, UsageError
from edgellm.estimate import adapter, architecture, quants
from edgellm.formats import hf_config
from edgellm.formats.gguf import summary as gguf_summary
from edgellm.store.card import CTX_UNKNOWN, card_of, local_card
from edgellm.store.sources.local_file import LocalFile
from edgellm.store.sources.registry import source_for, sources
from edgellm.types.model import Artifact, ModelCard, ModelFile, Shape

REACH_TIMEOUT_S = 5.0
SUFFIXES = (".gguf", ".onnx", ".safetensors")
PACKED = "I2_S"  # what ternary weights of a folder are loaded as: 2 bits each
RANK, MOST_RANK = "rank=", 4096
NOT_PUBLISHED = "none: no published file of it is known"  # source of a file that is predicted from the shape alone


@dataclass(frozen=True, slots=True)
class Named:
    """The row to look at, with the files that were meant; the model's other files; where the facts come from."""

    card: ModelCard
    basis: str
    others: tuple[ModelFile, ...] = ()


def named(name: str, rows: Sequence[ModelCard], *, quant: str | None = None, offline: bool = False) -> Named:
    """The model that `name` means, narrowed to one quantization where one is named.

    `rows` is the catalog: it adds what a header does not say (scores, licence), and answers where a source does not.

    Raises:
        UnknownModel, UsageError, ArtifactError, SourceError.
    """
    scheme = scheme_of(name)
    if scheme in sources() and scheme != "file":
        return _remote(name, rows, quant, offline=offline)
    if scheme == "file" or _is_path(name, rows):
        return _local(LocalFile.path_of(name) if scheme else Path(name).expanduser(), rows, quant)
    name, _, suffix = name.partition(":")
    card = lookup.find(name, rows)
    if card.shape is None:
        raise UnsupportedArtifact(
            f"the shape of {card.id} is not known, so neither memory nor speed can be predicted",
            hint="name a file of it, or hf://OWNER/REPO:QUANT: its header tells",
        )
    return _narrowed(card, quant or suffix or None, f"the catalog; trust {card.trust}")


def _is_path(name: str, rows: Iterable[ModelCard]) -> bool:
    if any(mark and mark in name for mark in (os.sep, os.altsep)) or name.lower().endswith(SUFFIXES):
        return True
    try:
        return Path(name).exists() and name.lower() not in {card.id for card in rows}
    except (OSError, ValueError):
        # Too long or with a NUL: no file has such a name.
        return False


def _narrowed(card: ModelCard, quant: str | None, basis: str) -> Named:
    """The row with the files of one quantization; one that nobody publishes is predicted where its recipe is known.

    Raises:
        UsageError: no such file, and no recipe either.
    """
    published = sorted({file.quant for file in card.files})
    if quant is None:
        if not published:
            recipes = ", ".join(q.name for q in quants.QUANTS.values() if q.predictable)
            raise UsageError(f"no published file of {card.id} is known", hint=f"--quant predicts one of {recipes}")
        return Named(card, basis)
    files = tuple(file for file in card.files if file.quant.lower() == quant.lower())
    others = tuple(file for file in card.files if file not in files)
    if files:
        return Named(replace(card, files=files[:1]), basis, others)
    known = next((q for q in quants.QUANTS.values() if q.name.lower() == quant.lower()), None)
    if known is None or not known.predictable:
        raise UsageError(
            f"{card.id} has no file in {quant}", hint=f"published: {', '.join(published) or 'none'}", param="quant"
        )
    return Named(replace(card, files=(ModelFile(NOT_PUBLISHED, known.name),)), basis, others)


def _local(path: Path, rows: Sequence[ModelCard], quant: str | None) -> Named:
    if quant is not None:
        raise UsageError(f"--quant has no meaning for {path}", hint="leave it out: a file is in one", param="quant")
    artifact = identify(str(path))
    if artifact.format == "safetensors" and Path(artifact.path).is_dir():
        return Named(recognize(_folder_card(artifact), rows), f"config.json and the headers in {path}")
    if artifact.format == "onnx":
        return Named(_onnx_card(artifact), f"the graph's header and the configuration in {path}")
    if artifact.format != "gguf":
        raise UnsupportedArtifact(
            f"{path} is a model in {artifact.format}, whose memory is not predicted yet",
            hint="name a GGUF file, or the folder of a safetensors or ONNX model",
        )
    return Named(_told(recognize(local_card(Path(artifact.path)), rows)), f"the header of {path}")


def _folder_card(artifact: Artifact) -> ModelCard:
    """The row of a Hugging Face folder: ternary weights count as they are packed when they are loaded."""
    found = hf_config.summary_of(artifact.path)
    parts = architecture.tensors(found.shape) or ()
    params = sum(part.elems * len(part.layers) for part in parts) or 1
    quant = PACKED if found.is_ternary else found.float_type
    if not quant:
        raise UnsupportedArtifact(
            f"{artifact.path} holds weights that are packed in a way not known here", hint="name a GGUF file of it"
        )
    size = None if found.is_ternary else found.tensor_bytes
    file = ModelFile(f"file:{artifact.path}", quant, "safetensors", found.file_bytes, None, size, "header")
    return ModelCard(
        id=artifact.model_id.lower(),
        family=found.shape.arch,
        kind="chat",
        license="unknown",
        ctx_train=found.ctx_train or CTX_UNKNOWN,
        params=params,
        params_active=params,
        shape=found.shape,
        files=(file,),
        native_quant=PACKED if found.is_ternary else "",
        source="its config.json",
        trust="header",
    )


def _onnx_card(artifact: Artifact) -> ModelCard:
    """The row of an ONNX folder."""
    facts = inspect(artifact.path, artifact.format)
    if facts.shape is None or facts.quant not in quants.QUANTS:
        what = f"its weights are {facts.quant or 'of no known kind'}" if facts.shape else "no shape in its config.json"
        raise UnsupportedArtifact(f"{artifact.path} cannot be predicted: {what}", hint="run it to see what it takes")
    file = ModelFile(
        f"file:{artifact.path}", facts.quant, "onnx", facts.file_bytes, None, facts.tensor_bytes, "header"
    )  # fmt: skip
    return ModelCard(
        id=artifact.model_id.lower(),
        family=facts.shape.arch,
        kind="chat" if facts.generates else "embedding",
        license="unknown",
        ctx_train=facts.ctx_train or CTX_UNKNOWN,
        params=max(1, facts.params),
        params_active=max(1, facts.params),
        shape=facts.shape,
        files=(file,),
        source="its graph and configuration",
        trust="header",
    )


def _remote(uri: str, rows: Sequence[ModelCard], quant: str | None, *, offline: bool) -> Named:
    """By the headers at the source; where it cannot be asked, by the catalog's row that has such a file."""
    if not isinstance(source_for(uri), Resolver):
        known = _of_catalog(uri, rows)
        if known is None:
            raise SourceError(
                f"{scheme_of(uri)}: describes no file before it is fetched", hint="fetch it first: edgellm run MODEL"
            )
        return _narrowed(known, quant, f"the catalog; trust {known.trust}")
    try:
        if offline or settings.offline():
            raise SourceUnreachable(
                f"{uri} cannot be asked, as offline was asked for",
                hint="leave --offline out, or name a model of the catalog: `edgellm models`",
            )
        # Asked first: the hub's client tries a dead network for half a minute.
        problem = source_for(uri).reachable(REACH_TIMEOUT_S, uri)
        if problem:
            raise SourceUnreachable(f"{uri}: {problem}", hint="connect to a network, or name a model of the catalog")
        return _narrowed(_told(recognize(card_of(uri), rows)), quant, f"the header at {uri}")
    except SourceUnreachable as error:
        card = _of_catalog(uri, rows)
        if card is None:
            raise
        return _narrowed(card, quant, f"the catalog (trust {card.trust}), as {error.message}")


def _of_catalog(uri: str, rows: Iterable[ModelCard]) -> ModelCard | None:
    """The row that has this file, or this repository; with the files that the URI means."""
    for card in rows:
        files = tuple(f for f in card.files if f.source == uri or f.source.startswith((f"{uri}:", f"{uri}/")))
        if files and card.shape is not None:
            return replace(card, files=files)
    return None


def _told(card: ModelCard) -> ModelCard:
    """With a quantization for each file that its name or bits tell; a mix of unknown name is taken as the nearest."""
    return replace(card, files=tuple(f if f.quant in quants.QUANTS else _nearest(f, card) for f in card.files))


def _nearest(file: ModelFile, card: ModelCard) -> ModelFile:
    bits = 8 * (file.tensor_bytes or 0) / card.params
    near = min((q for q in quants.QUANTS.values() if q.predictable), key=lambda q: abs(q.bits - bits))
    return replace(file, quant=near.name, trust=f"{file.trust}; a mix of unknown name, taken as {near.name}")


def adapter_bytes(adapters: Iterable[str], shape: Shape | None) -> int:
    """Bytes of LoRA adapters that are kept beside a model: of a file its tensors, of `rank=16` what that rank takes.

    Raises:
        UsageError: no rank. ArtifactError: a file is damaged or no adapter, or the model's matrices are not known.
    """
    return sum(_of_rank(text, shape) if text.startswith(RANK) else _of_file(text) for text in adapters)


def _of_file(path: str) -> int:
    found = gguf_summary.summary_of(path)
    if found.role != "adapter":
        raise UnsupportedArtifact(f"{path} is a GGUF file of type {found.role!r}, no adapter", hint="name a LoRA")
    return found.tensor_bytes


def _of_rank(text: str, shape: Shape | None) -> int:
    number = text.removeprefix(RANK)
    if not number.isdecimal() or not 1 <= int(number) <= MOST_RANK:
        raise UsageError(f"{text!r} is no rank", hint=f"as in rank=16; 1 to {MOST_RANK}", param="adapter")
    n_bytes = None if shape is None else adapter.lora_bytes(shape, int(number))
    if n_bytes is None:
        raise UnsupportedArtifact("the matrices of this model are not known one by one", hint="name the adapter's file")
    return n_bytes
