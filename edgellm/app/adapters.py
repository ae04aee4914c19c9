"""Memory of LoRA adapters that are kept beside a model, before they are loaded."""

from __future__ import annotations

from collections.abc import Iterable

from edgellm.errors import UnsupportedArtifact, UsageError
from edgellm.estimate import adapter
from edgellm.formats.gguf import summary as gguf_summary
from edgellm.types.model import Shape

RANK, MOST_RANK = "rank=", 4096


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
