"""Why a quantization is not made: refused before the first byte, with the numbers and a way out."""

from __future__ import annotations

import math
from pathlib import Path

from edgellm import explain
from edgellm.app.quantize.source import QuantizeSource, same_file
from edgellm.errors import BadArtifact, UsageError
from edgellm.estimate import quality, quants, small_row_mix
from edgellm.estimate.file_recipe import FilePlan
from edgellm.files import require_room
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.imatrix import Imatrix
from edgellm.types.quantize_note import (
    LargerTypes,
    MatrixCovers,
    QuantizedTwice,
    QuantizeNote,
    SizeAsOf,
    SourceLostBefore,
)

_UNQUANTIZED = "start from an F16, BF16 or Q8_0 file, or accept the loss with --allow-requantize"


def to_content(
    source: QuantizeSource, file: FilePlan, matrix: Imatrix | None, *, allow_requantize: bool
) -> tuple[QuantizeNote, ...]:
    """What the user should know of the result.

    Raises:
        UsageError: it makes no sense, or costs what was not agreed to. BadArtifact: another model's matrix.
    """
    path, params = source.artifact.path, source.card.params
    if not any(p.changes for p in file.tensors):
        raise UsageError(f"{path} is {file.quant} already", hint="choose another type with --to", param="to")
    for p in file.impossible[:1]:
        row = f"rows of {p.row} weights ({p.tensor.name})"
        raise UsageError(f"{file.quant} cannot hold {row}", hint="choose another type with --to", param="to")
    notes: list[QuantizeNote] = _check_matrix(file, matrix)
    if file.requantized:
        from_quant = _most(file)
        known = source.artifact.quant if source.artifact.quant in quants.QUANTS else from_quant
        before = (_loss(source, known),) if known in quants.QUANTS else ()
        twice = QuantizedTwice(
            len(file.requantized), Path(path).name, from_quant, file.quant,
            kept_before=quality.kept(params, *before).mid,
            kept_after=quality.kept(params, *before, _loss(source, file.quant)).mid,
        )  # fmt: skip
        if file.lossy and not allow_requantize:
            raise UsageError(explain.quantized_twice(twice), hint=_UNQUANTIZED, param="allow-requantize")
        notes.insert(0, twice)
    if file.like:
        notes.append(SizeAsOf(file.quant, file.like))
    elif fallback := [p for p in file.tensors if p.type != p.asked]:
        notes.append(LargerTypes(len(fallback)))
    if source.lossy:
        notes.append(SourceLostBefore(source.artifact.quant))
    return tuple(notes)


def only_twice(source: QuantizeSource) -> UsageError:
    """The error where nothing can be made for this machine but what would be quantized twice."""
    name = Path(source.artifact.path).name
    has = f", which is {source.artifact.quant} already," if source.artifact.quant else ""
    return UsageError(
        f"all that could be made of {name}{has} would be quantized twice, and lose more than it has lost: "
        "what is here is best",
        hint=_UNQUANTIZED,
        param="allow-requantize",
    )


def _loss(source: QuantizeSource, quant: str) -> quality.Loss:
    """What the model loses to `quant`, as selection counts it.

    Raises:
        UsageError: unknown quantization name.
    """
    card, recipe = source.card, quants.find(quant)
    shape = card.shape or reader.shape(source.content.header, source.content.tensors)
    short = small_row_mix.stored(shape, recipe.name) if recipe.predictable else None
    native = recipe.name == card.native_quant
    return quality.quant_loss(recipe.name, card.params, native=native, family=card.family, short=short)


def _check_matrix(file: FilePlan, matrix: Imatrix | None) -> list[QuantizeNote]:
    if matrix is None:
        if file.need_imatrix:
            first = file.need_imatrix[0]
            raise UsageError(
                f"{file.quant} needs an importance matrix: {len(file.need_imatrix)} tensors become {first.type} and "
                "similar, and would be garbage",
                hint="give one with --imatrix (llama-imatrix makes it), or choose IQ4_XS, Q3_K_M or Q2_K",
                param="imatrix",
            )
        return []
    fits = 0
    for p in file.tensors:
        entry = matrix.entries.get(p.tensor.name)
        if entry is None:
            if p in file.need_imatrix:
                hint = "make one with llama-imatrix from this very model"
                raise BadArtifact(f"{matrix.header.where} has no entry for {p.tensor.name}", hint=hint)
            continue
        n_needed = p.row * (p.tensor.dims[2] if len(p.tensor.dims) > 2 else 1)
        if entry.n_values != n_needed and p.tensor.name != "token_embd.weight":
            what = f"{p.tensor.name} has {entry.n_values} values, {n_needed} are needed"
            raise BadArtifact(f"{matrix.header.where}: {what}", hint="it is of another model")
        fits += 1
    return [MatrixCovers(fits, sum(p.changes for p in file.tensors))]


def _most(file: FilePlan) -> str:
    """The type that most weights of what is quantized already have."""
    weights: dict[str, int] = {}
    for p in file.requantized:
        weights[p.tensor.type.name] = weights.get(p.tensor.type.name, 0) + math.prod(p.tensor.dims)
    return max(weights, key=lambda name: weights[name])


def to_output(path: Path, source: QuantizeSource, *, replace: bool) -> None:
    """Refuse a file that cannot be written, or is not to be.

    Raises:
        UsageError.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="give --output a file's name", param="output")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} does not exist", hint="make it, or choose another --output", param="output")
    if any(same_file(str(path), part) for part in source.artifact.paths):
        raise UsageError(f"{path} is what is quantized", hint="choose another --output", param="output")
    if path.exists() and not replace:
        raise exists(path)


def to_size(n_bytes: int, folder: Path, quant: str) -> None:
    """Refuse what would fill the disk.

    Raises:
        DiskFull.
    """
    require_room(folder, n_bytes, quant, hint="free space, or choose another folder with --output")


def exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists already", hint="give another --output, or replace it with --force")
