"""LoRA adapters that are kept beside a model: which file a word of the user means, what it takes, whether it fits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from edgellm.catalog import lookup
from edgellm.errors import UnknownAdapter, UnsupportedArtifact, UsageError, speaks_in_flags
from edgellm.estimate import adapter, quants
from edgellm.files import expanded
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf.reader import read_model
from edgellm.store.adapters import AdapterStore, StoredAdapter
from edgellm.store.content_hash import content_hash
from edgellm.types.adapter import AdapterFile, AdapterNeed, AdapterSet
from edgellm.types.model import Artifact, ModelCard, Shape
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import Footprint, LaunchPlan
from edgellm.types.reason import AdaptersBeside

RANK, MOST_RANK = "rank=", 4096
# What tools call the file of every adapter: its folder has the name then.
_USUAL_STEMS = frozenset({"adapter", "adapter_model"})


@dataclass(frozen=True, slots=True)
class AskedAdapter:
    """An adapter that was asked for: a file that was read, and the name that requests will call it by."""

    file: AdapterFile
    read: gguf_adapter.Adapter
    is_stored: bool = False  # it was asked for by the name that it has in the store


def asked(texts: Iterable[str], *, stored: str = "") -> tuple[AskedAdapter, ...]:
    """The adapters of FILE, NAME=FILE and NAME texts: a file without a name has that of its path.

    A text is a path if it looks like one (a separator, .gguf). Any other is the name of a stored adapter, and a path
    only where none is called so: what lies in the current folder does not take its place.

    Args:
        stored: the one of these texts that is only looked for in the store, whatever it looks like.

    Raises:
        UsageError: a name is none, or is given twice. UnknownAdapter: there is no such file, and none is stored.
        ArtifactError: a file is damaged or no adapter.
    """
    adapters = tuple(_asked(text, is_name=bool(stored) and text == stored) for text in texts)
    names = [one.file.name for one in adapters]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UsageError(f"two adapters are called {twice}", hint=_renamed(f"{twice}-2"), param="adapters")
    return adapters


def needs(adapters: Iterable[AskedAdapter]) -> tuple[AdapterNeed, ...]:
    """What a model must be that answers with these."""
    return tuple(map(_need, adapters))


def _need(one: AskedAdapter) -> AdapterNeed:
    if one.is_stored:
        records = [stored.record for stored in AdapterStore().installed() if stored.name == one.file.name]
        bases = [record for record in records if record is not None and not record.merged_quant]
        made_for = tuple((record.base_id, record.base_quant, record.base_sha256) for record in bases)
        return AdapterNeed(one.file.name, made_for)
    layers, matrices = [0], set()
    for pair in one.read.pairs:
        *layer, role = pair.name.removesuffix(".weight").removeprefix("blk.").split(".", 1)
        layers += [int(number) + 1 for number in layer if number.isdecimal()]
        if len(pair.base_dims) == 2:
            matrices.add((role, *pair.base_dims))
    return AdapterNeed(one.file.name, (), one.read.architecture, max(layers), tuple(sorted(matrices)))


def for_model(adapters: Iterable[AskedAdapter], artifact: Artifact, backend: str) -> tuple[AdapterFile, ...]:
    """The files to load beside the model.

    Raises:
        UnsupportedArtifact: one was made for another model or other bytes of it, or the model's format takes none.
        UnknownAdapter: the store has none of that name for the model.
    """
    files = []
    for one in adapters:
        if artifact.format != "gguf":
            raise UnsupportedArtifact(
                f"{one.file.path} is an adapter of a GGUF model, and {artifact.name} is {artifact.format}",
                hint=f"run the model's GGUF file; the {backend} backend computes with no adapters",
            )
        own = _read(one.file.name, stored(one.file.name, artifact).path) if one.is_stored else one
        gguf_adapter.check(own.read, read_model(artifact.path))
        files.append(own.file)
    return tuple(files)


def beside(plan: LaunchPlan, adapters: Sequence[AskedAdapter], *, answering: str = "") -> LaunchPlan:
    """The plan with these adapters, which its memory counts.

    Args:
        answering: the one that answers where a request leaves it open; "" = none.

    Raises:
        As `for_model`.
    """
    if not adapters:
        return plan
    files = for_model(adapters, plan.artifact, plan.backend)
    n_bytes = sum(file.bytes for file in files)
    footprint: Footprint | None = plan.footprint and structs.replace(plan.footprint, adapter_bytes=n_bytes)
    reasons = (*plan.reasons, AdaptersBeside(tuple(file.name for file in files), n_bytes))
    answers_with: AdapterSet = ((answering, 1.0),) if answering else ()
    return replace(plan, adapters=files, footprint=footprint, reasons=reasons, answers_with=answers_with)


def answering_with_all(plan: LaunchPlan) -> LaunchPlan:
    """The plan whose answers use all of its adapters, where a request leaves it open."""
    return replace(plan, answers_with=tuple((file.name, 1.0) for file in plan.adapters))


def stored(name: str, artifact: Artifact) -> StoredAdapter:
    """The adapter that the store has under this name for the model.

    Raises:
        UnknownAdapter: there is none. UnsupportedArtifact: it is damaged, or was made for other bytes of the model.
    """
    store, sha256 = AdapterStore(), content_hash(artifact)
    for one in store.installed():
        if one.name == name and one.record and not one.is_merged and one.record.base_sha256 == sha256:
            return store.find(one.base_id, name)  # the same bytes, whatever they are called here
    named = store.find(artifact.model_id, name)
    named.require_base(sha256, artifact.path)
    return named


@dataclass(frozen=True, slots=True)
class TunedModel:
    """What is run where `BASE:NAME` is asked for. `answering`: the adapter that answers where a request does not say.

    `shown_as`: the name of a model of its own; "" = the base keeps its own.
    """

    model: str
    options: LaunchOptions
    answering: str = ""
    shown_as: str = ""


def tuned(model: str, options: LaunchOptions) -> TunedModel:
    """What `BASE:NAME` means where the store has it: the base, and options that load the adapter; or the file of a
    merged model. Any other model stays as it is.

    Raises:
        UnsupportedArtifact: it is damaged.
    """
    base, sep, name = model.rpartition(":")
    installed = AdapterStore().installed() if sep else []
    named = next((one for one in installed if (one.base_id.lower(), one.name) == (base.lower(), name)), None)
    if named is None:
        return TunedModel(model, options)
    record = named.sound()
    if named.is_merged:
        return TunedModel(str(named.path), options, shown_as=named.label)
    loading = structs.replace(options, adapters=(name, *options.adapters))
    if record.base_id in lookup.catalog():
        quant = options.quant or record.base_quant or None
        return TunedModel(record.base_id, structs.replace(loading, quant=quant), name)
    return TunedModel(record.base_path, loading, name)


def _asked(text: str, *, is_name: bool) -> AskedAdapter:
    named = [] if not is_name and _is_path(text) else [one for one in AdapterStore().installed() if one.name == text]
    # Of several models: which one it is, the plan will tell.
    if own := next((one for one in named if not one.is_merged), None):
        return replace(_read(text, own.path), is_stored=True)
    name, sep, path = text.partition("=")
    if not sep or Path(text).exists():  # a path may have the sign in it
        name, path = name_of(Path(text)), text
    check_no_quant(name, hint=_renamed(f"{name}-adapter"))
    file = expanded(path)
    if named and not file.exists():
        named[0].adapter()  # says that it is a model
    if not file.exists():
        hint = "name a .gguf file, or an adapter of `edgellm adapters list`"
        raise UnknownAdapter(f"there is no adapter {path[:80]!r}", hint=hint, adapter=path)
    return _read(name, file)


def _renamed(name: str) -> str:
    return f"give it a name of its own, as {name}{'=FILE' if speaks_in_flags() else ''}"


def _is_path(text: str) -> bool:
    return "=" in text or text.lower().endswith(".gguf") or any(mark and mark in text for mark in (os.sep, os.altsep))


def _read(name: str, path: Path) -> AskedAdapter:
    read = gguf_adapter.read(path)
    return AskedAdapter(AdapterFile(name, read.header.where, read.tensor_bytes, read.sha256), read)


def check_no_quant(name: str, *, hint: str) -> None:
    """
    Raises:
        UsageError: MODEL:NAME would be a file of the model.
    """
    if quants.QUANTS.get(name.upper()) is not None:
        raise UsageError(f"{name} is a quantization, and no name of an adapter", hint=hint, param="adapters")


def name_of(path: Path) -> str:
    """What the adapter at `path` is called where nobody gives it a name."""
    stem = path.absolute().parent.name if path.stem in _USUAL_STEMS else path.stem
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:64] or "adapter"


def taking_adapters(card: ModelCard) -> ModelCard:
    """The card with those of its files that adapters can be loaded beside.

    Raises:
        UnsupportedArtifact: there is none.
    """
    if not (files := tuple(file for file in card.files if file.format == "gguf")):
        formats = ", ".join(sorted({file.format for file in card.files}))
        raise UnsupportedArtifact(f"adapters go with GGUF files, {card.id} has {formats}", hint="leave them out")
    return replace(card, files=files)


def adapter_bytes(adapters: Iterable[str], shape: Shape | None, artifact: Artifact | None = None) -> int:
    """Bytes of LoRA adapters that are kept beside a model: the tensors of a file, or what `rank=16` would take.

    Args:
        shape: of the model, for a rank, and for the architecture that a file must be for.
        artifact: the model, where it lies here: the tensors of a file must be its own.

    Raises:
        UsageError: not a rank. ArtifactError: a file is damaged, no adapter or one of another model, or the model's
            matrices are not known.
    """
    return sum(_of_rank(text, shape) if text.startswith(RANK) else _of_file(text, shape, artifact) for text in adapters)


def _of_file(path: str, shape: Shape | None, artifact: Artifact | None) -> int:
    read = gguf_adapter.read(path)
    if artifact is not None and artifact.format == "gguf":
        gguf_adapter.check(read, read_model(artifact.path))
    elif shape is not None:
        gguf_adapter.check_architecture(read, shape.arch, "the model")
    return read.tensor_bytes


def _of_rank(text: str, shape: Shape | None) -> int:
    number = text.removeprefix(RANK)
    if not number.isdecimal() or not 1 <= int(number) <= MOST_RANK:
        raise UsageError(f"{text!r} is not a rank", hint=f"as in rank=16; 1 to {MOST_RANK}", param="adapter")
    n_bytes = None if shape is None else adapter.lora_bytes(shape, int(number))
    if n_bytes is None:
        raise UnsupportedArtifact("the matrices of this model are not known one by one", hint="name the adapter's file")
    return n_bytes
