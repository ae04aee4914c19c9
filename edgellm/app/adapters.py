"""LoRA adapters that are kept beside a model: which file a word of the user means, what it takes, whether it fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.errors import UnsupportedArtifact, UsageError
from edgellm.estimate import adapter, quants
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf import summary as gguf_summary
from edgellm.formats.gguf.reader import read_model
from edgellm.types.adapter import AdapterFile
from edgellm.types.model import Artifact, Shape
from edgellm.types.plan import Footprint, LaunchPlan
from edgellm.types.reason import AdaptersBeside

RANK, MOST_RANK = "rank=", 4096
# What tools call the file of every adapter: its folder has the name then.
_USUAL_STEMS = frozenset({"adapter", "adapter_model"})


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """An adapter's file that was read, and the name that it is asked for by."""

    file: AdapterFile
    read: gguf_adapter.Adapter


def named(texts: Iterable[str]) -> tuple[NamedAdapter, ...]:
    """The adapters of FILE and NAME=FILE texts; a file without a name has that of its path.

    Raises:
        UsageError: a name is none, or is given twice. ArtifactError: a file is damaged or no adapter.
    """
    adapters = tuple(map(_named, texts))
    names = [one.file.name for one in adapters]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        hint = f"give one of them another name: {twice}-2=FILE"
        raise UsageError(f"two adapters are called {twice}", hint=hint, param="adapters")
    return adapters


def check_fits(adapters: Iterable[NamedAdapter], artifact: Artifact, backend: str) -> None:
    """
    Raises:
        UnsupportedArtifact: one was made for another model, or the model is of a format that takes none.
    """
    for one in adapters:
        if artifact.format != "gguf":
            raise UnsupportedArtifact(
                f"{one.file.path} is an adapter of a GGUF model, and {artifact.name} is {artifact.format}",
                hint=f"run the model's GGUF file; the {backend} backend computes with no adapters",
            )
        gguf_adapter.check(one.read, read_model(artifact.path))


def beside(plan: LaunchPlan, adapters: Sequence[NamedAdapter]) -> LaunchPlan:
    """The plan with these adapters, which its memory counts.

    Raises:
        As `check_fits`.
    """
    if not adapters:
        return plan
    check_fits(adapters, plan.artifact, plan.backend)
    files = tuple(one.file for one in adapters)
    n_bytes = sum(file.bytes for file in files)
    footprint: Footprint | None = plan.footprint and replace(plan.footprint, adapter_bytes=n_bytes)
    reasons = (*plan.reasons, AdaptersBeside(tuple(file.name for file in files), n_bytes))
    return replace(plan, adapters=files, footprint=footprint, reasons=reasons)


def _named(text: str) -> NamedAdapter:
    name, sep, path = text.partition("=")
    if not sep or Path(text).exists():  # a path may have the sign in it
        name, path = _name_of(Path(text)), text
    if quants.QUANTS.get(name.upper()) is not None:
        hint = f"call it otherwise: {name}-adapter=FILE"
        raise UsageError(f"{name} is a quantization, and no name of an adapter", hint=hint, param="adapters")
    read = gguf_adapter.read(Path(path).expanduser())
    return NamedAdapter(AdapterFile(name, read.header.where, read.tensor_bytes, read.sha256), read)


def _name_of(path: Path) -> str:
    stem = path.absolute().parent.name if path.stem in _USUAL_STEMS else path.stem
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:64] or "adapter"


def adapter_bytes(adapters: Iterable[str], shape: Shape | None) -> int:
    """Bytes of LoRA adapters that are kept beside a model: the tensors of a file, or what `rank=16` would take.

    Raises:
        UsageError: not a rank. ArtifactError: a file is damaged or no adapter, or the model's matrices are not known.
    """
    return sum(_of_rank(text, shape) if text.startswith(RANK) else _of_file(text) for text in adapters)


def _of_file(path: str) -> int:
    summary = gguf_summary.summary_of(path)
    if summary.role != "adapter":
        raise UnsupportedArtifact(f"{path} is a GGUF file of type {summary.role!r}, no adapter", hint="name a LoRA")
    return summary.tensor_bytes


def _of_rank(text: str, shape: Shape | None) -> int:
    number = text.removeprefix(RANK)
    if not number.isdecimal() or not 1 <= int(number) <= MOST_RANK:
        raise UsageError(f"{text!r} is not a rank", hint=f"as in rank=16; 1 to {MOST_RANK}", param="adapter")
    n_bytes = None if shape is None else adapter.lora_bytes(shape, int(number))
    if n_bytes is None:
        raise UnsupportedArtifact("the matrices of this model are not known one by one", hint="name the adapter's file")
    return n_bytes
