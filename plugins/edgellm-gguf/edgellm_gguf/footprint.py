"""Memory of one GGUF file on this build, by formula from its header. Nothing here imports `llama_cpp`.

tests/gguf/test_memory_kinds.py compares it with what the library itself would reserve.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import structs

from edgellm.estimate import footprint
from edgellm.formats.gguf.reader import array_length, read_model
from edgellm.types.model import Artifact, Shape
from edgellm.types.plan import Footprint, Settings
from edgellm_gguf.repacking import ROW_MULTIPLE

# Looked up row by row, never multiplied with: llama.cpp keeps them as they are (`llm_tensor_info`, GGML_OP_GET_ROWS).
TABLES = frozenset({"token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"})


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the header says that memory follows from."""

    shape: Shape
    tensor_bytes: int
    merges: int
    matrices: tuple[tuple[str, int], ...]  # (type, bytes) of all that can be repacked, without the table
    table: tuple[str, int]  # (type, bytes) of the embedding table where it is the output table too


def of_file(artifact: Artifact, settings: Settings, repacked: Mapping[str, float]) -> Footprint:
    """By formula. `repacked`: tensor type -> bytes of the copy for a byte of the file, as the build says.

    Raises:
        BadArtifact, UnsupportedArtifact: as `read_model`.
    """
    facts = _facts(artifact.path, *_stamp(artifact.path))
    kind, size = facts.table
    table = round(size * repacked.get(kind, 0))
    copies = table + round(sum(size * repacked.get(kind, 0) for kind, size in facts.matrices))
    return structs.replace(
        footprint.footprint(
            facts.shape,
            facts.tensor_bytes,
            settings.n_ctx,
            settings.n_slots,
            settings.kv_type,
            batch=settings.n_batch,
            repacked_bytes=copies,
            table_bytes=table,
            mmap=settings.mmap,
            merges=facts.merges,
        ),
        exact=True,
    )


def _stamp(path: str) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_size, about.st_mtime_ns


@functools.lru_cache(maxsize=16)
def _facts(path: str, size: int, mtime_ns: int) -> _Facts:
    from edgellm.formats.gguf.reader import shape as shape_of

    model = read_model(path)
    shape = shape_of(model.header, model.tensors)
    by_type: dict[str, int] = {}
    table = ("", 0)
    for tensor in model.tensors:
        if tensor.name == "token_embd.weight" and shape.tied_embeddings:
            table = (tensor.type.name, tensor.n_bytes)
        is_matrix = len(tensor.dims) > 1 and tensor.name.endswith(".weight") and tensor.name not in TABLES
        if is_matrix and tensor.dims[1] % ROW_MULTIPLE == 0:
            by_type[tensor.type.name] = by_type.get(tensor.type.name, 0) + tensor.n_bytes
    n_merges = array_length(model.header, "tokenizer.ggml.merges")
    return _Facts(shape, model.tensor_bytes, n_merges, tuple(by_type.items()), table)
