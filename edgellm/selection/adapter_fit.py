"""Whether a model can answer with an adapter: its file, where the adapter is pinned to one, else its matrices."""

from __future__ import annotations

from edgellm.estimate import architecture
from edgellm.types.adapter import AdapterNeed
from edgellm.types.model import ModelCard, ModelFile, Shape
from edgellm.types.refusal import AdapterMisfit

RULE = "fits_adapter"


def misfit(need: AdapterNeed, card: ModelCard, file: ModelFile, shape: Shape) -> AdapterMisfit | None:
    """The first thing that does not fit. What is not known of a model is taken to fit: its file is looked at again
    before it is loaded."""
    if file.format != "gguf":
        return AdapterMisfit(need.name, "format", file.format, "gguf")
    if need.bases:
        if any(_is_file(base, card, file) for base in need.bases):
            return None
        names = ", ".join(f"{model} {quant}".strip() for model, quant, _ in need.bases)
        return AdapterMisfit(need.name, "file", f"{card.id} {file.quant}", names)
    if shape.arch != need.architecture:
        return AdapterMisfit(need.name, "architecture", shape.arch, need.architecture)
    return _matrix_misfit(need, shape)


def _matrix_misfit(need: AdapterNeed, shape: Shape) -> AdapterMisfit | None:
    if shape.n_layer < need.n_layer:
        return AdapterMisfit(need.name, "matrix", f"{shape.n_layer} layers", f"{need.n_layer} layers")
    sizes = {(part.role, part.row, part.rows) for part in architecture.tensors(shape) or ()}
    roles = {role for role, _, _ in sizes}
    for role, n_in, n_out in need.matrices:
        if role in roles and (role, n_in, n_out) not in sizes:
            has = next(f"{row}x{rows}" for name, row, rows in sorted(sizes) if name == role)
            return AdapterMisfit(need.name, "matrix", f"{role} of {has}", f"{role} of {n_in}x{n_out}")
    return None


def _is_file(base: tuple[str, str, str], card: ModelCard, file: ModelFile) -> bool:
    model, quant, sha256 = base
    return file.sha256 == sha256 if file.sha256 else (card.id, file.quant) == (model, quant)
