"""Adds factors to the matrices of a model whose GGUF file is not quantized, in the file itself, some rows at a time.

DoRA, whose rows are scaled to learned lengths, and whole matrices come into a model no other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgellm.adaptation.adapter_file import WRITTEN, bytes_of, floats_of
from edgellm.adaptation.lora import Floats, Lora
from edgellm.errors import UnsupportedArtifact, UsageError
from edgellm.formats.gguf.adapter import EMBEDDING
from edgellm.formats.gguf.header import GgufTensor
from edgellm.formats.gguf.reader import GgufModel, read_model

CHUNK_BYTES = 16 * 1024**2  # of float32 values that are held at once
_WRONG_BASE = "name the base that the adapter was tuned on"
MergeProgress = Callable[[int, int, str], None]  # matrices done, matrices in all, the name of the next


def check_merge(lora: Lora, model: GgufModel, where: str) -> None:
    """That the model has the matrices which change, and that a change to them is all that the adapter does.

    Raises:
        UnsupportedArtifact: names the tensor, what it is and what the model has.
    """
    base = model.paths[0]
    if lora.architecture != model.header.architecture:
        message = f"{where} is for architecture {lora.architecture}, {base} is of {model.header.architecture}"
        raise UnsupportedArtifact(message, hint=_WRONG_BASE)
    tensors = {tensor.name: tensor for tensor in model.tensors}
    shapes = {name: (*pair.b.shape[:-1], pair.a.shape[-1]) for name, pair in lora.factors.items()}
    for name, shape in (shapes | {name: values.shape for name, values in lora.replaced.items()}).items():
        tensor = tensors.get(name)
        if tensor is None or tensor.dims[::-1] != shape:
            has = "no such tensor" if tensor is None else f"one of {list(tensor.dims[::-1])}"
            raise UnsupportedArtifact(f"{where} changes {name} of {list(shape)}, {base} has {has}", hint=_WRONG_BASE)
        if name == EMBEDDING and "output.weight" not in tensors and not lora.shares_table:
            message = f"{where} changes {name}, which is the output of {base}, too, and there it must not change"
            raise UnsupportedArtifact(message, hint="tune other matrices")


def add(path: Path, lora: Lora, scale: float = 1.0, progress: MergeProgress = lambda *_: None) -> None:
    """Change the file at `path`, of which nothing else is known until it is done. `scale`: of what is added.

    Raises:
        UsageError: a scale for what is more than factors.
        UnsupportedArtifact: as `check_merge`; a matrix is quantized, or would hold values too large for its type.
        OSError: the file cannot be written.
    """
    if scale != 1.0 and (lora.lengths or lora.replaced):
        what = "DoRA" if lora.lengths else "an adapter with whole matrices"
        raise UsageError(f"{what} is merged as it is, not at scale {scale:g}", hint="leave it out", param="scale")
    model = read_model(path)
    check_merge(lora, model, "the adapter")
    tensors = {tensor.name: tensor for tensor in model.tensors}
    names = [*lora.factors, *lora.replaced]
    for tensor in (tensors[name] for name in names):
        if tensor.type.name not in WRITTEN:
            message = f"{path}: {tensor.name} is of type {tensor.type.name}, factors are added to {', '.join(WRITTEN)}"
            raise UnsupportedArtifact(message, hint="merge into a file that is not quantized, then quantize it")
    # Read and written, not mapped: pages of a map that were changed count as memory until the disk has them.
    with open(path, "r+b") as file:
        for done, name in enumerate(names):
            progress(done, len(names), name)
            for begin, values in _sums(file, tensors[name], lora, scale):
                if not np.isfinite(values).all():
                    message = f"{name} would have values that no number can hold"
                    raise UnsupportedArtifact(message, hint="the adapter is damaged, or its alpha is: export it again")
                file.seek(begin)
                file.write(bytes_of(values, tensors[name].type.name, name))


def _sums(file: BinaryIO, tensor: GgufTensor, lora: Lora, scale: float) -> Iterator[tuple[int, Floats]]:
    """(where in the file, new values) of some rows after another, until all rows of a tensor had their turn."""
    name, (n_in, n_out, n_experts) = tensor.name, (*tensor.dims, 1, 1)[:3]
    row_bytes = tensor.n_bytes // (n_out * n_experts)
    step = max(1, CHUNK_BYTES // (4 * n_in))
    for expert in range(n_experts):
        for first in range(0, n_out, step):
            rows = slice(first, min(first + step, n_out))
            begin = tensor.offset + (expert * n_out + rows.start) * row_bytes
            if name in lora.replaced:
                yield begin, lora.replaced[name].reshape(-1, n_in)[rows]
                continue
            file.seek(begin)
            raw = np.frombuffer(file.read((rows.stop - rows.start) * row_bytes), np.uint8)
            values = floats_of(raw, tensor.type.name).reshape(-1, n_in)
            a, b = lora.factors[name].a, lora.factors[name].b
            a, b = (a[expert], b[expert, rows]) if a.ndim > 2 else (a, b[rows])
            total = values + scale * lora.scale(name) * (b.astype(np.float64) @ a)
            if name in lora.lengths:
                total *= (lora.lengths[name][rows] / np.linalg.norm(total, axis=1))[:, None]
            with np.errstate(over="ignore"):
                yield begin, np.asarray(total, np.float32)
