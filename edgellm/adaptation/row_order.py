"""Rows of q and k: in GGUF files of some architectures they lie in another order than in Hugging Face's.

There a head's rows are the real parts of all its rotations, then the imaginary ones; llama.cpp's rope of llama wants
them in turns. Source: `LlamaModel.permute` of llama.cpp b11434's converter, and the models that inherit it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact
from edgellm.formats.gguf.cursor import short
from edgellm.formats.gguf.header import GgufHeader

PERMUTED = frozenset({"llama", "granite", "mistral3", "smollm3"})
_QK = re.compile(r"blk\.([0-9]+)\.attn_([qk])\.weight")
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowOrder:
    """How the rows of one matrix are ordered: `file = hub[to_file]`, `hub = file[to_hub]`."""

    to_file: Rows

    @property
    def to_hub(self) -> Rows:
        return np.argsort(self.to_file)


def row_order(header: GgufHeader, name: str, n_rows: int) -> RowOrder | None:
    """Of a tensor of the model; None where both have the same order.

    Raises:
        BadArtifact: the model's heads do not divide the rows.
    """
    match = _QK.fullmatch(name)
    if match is None or header.architecture not in PERMUTED:
        return None
    key = "attention.head_count" if match[2] == "q" else "attention.head_count_kv"
    heads = _heads(header, key, int(match[1]))
    if n_rows % (2 * heads):
        message = f"{header.where}: {name} has {n_rows} rows for {heads} heads, an even number for each is needed"
        raise BadArtifact(message, hint="the file is damaged or was made wrongly: fetch another one")
    return RowOrder(np.arange(n_rows).reshape(heads, 2, n_rows // heads // 2).swapaxes(1, 2).ravel())


def _heads(header: GgufHeader, key: str, layer: int) -> int:
    value = header.of_architecture(key, header.of_architecture("attention.head_count"))
    heads = value[layer] if isinstance(value, tuple) and layer < len(value) else value
    if not isinstance(heads, int) or not 0 < heads < 2**16:
        where = f"{header.where}: key {header.architecture}.{key}"
        raise BadArtifact(f"{where} is {short(value)}, a number of heads is needed", hint="fetch another file")
    return heads
