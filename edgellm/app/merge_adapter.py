"""A model with an adapter in its matrices, as one file of any quantization. The model's own file is only read.

The backend's quantizer writes the model in F32, the factors are added there, and the same quantizer makes of it what
was asked for: no type of tensor is read or written here that llama.cpp does not read and write itself.
"""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.adaptation import merge
from edgellm.app import context as app_context
from edgellm.app.quantize import plan as quantize_plan
from edgellm.app.quantize import preflight
from edgellm.app.quantize.make import WriteProgress, alone, make
from edgellm.app.quantize.plan import Plan
from edgellm.app.quantize.source import QuantizeSource
from edgellm.app.stored_adapters import LoadedAdapter
from edgellm.contract.quantizer import Quantization
from edgellm.errors import UsageError
from edgellm.estimate import file_recipe, quants
from edgellm.files import rename_new, require_room, sync, writing
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.imatrix import read_imatrix
from edgellm.formats.gguf.reader import GgufModel, GgufTensor, read_model
from edgellm.runtime import quantize_worker
from edgellm.types.model import Artifact
from edgellm.types.quantize_note import QuantizeNote, SourceLostBefore
from edgellm.types.reason import Reason

FULL = "F32"
_PARTS = ((0.0, 0.3), (0.3, 0.5), (0.5, 1.0))  # of the progress: writing it in full, adding, quantizing


@dataclass(frozen=True, slots=True)
class Merged:
    path: Path
    bytes: int
    quant: str
    notes: tuple[Reason | QuantizeNote, ...]


def merge_adapter(
    adapter: LoadedAdapter, output: Path, quant: str = "F16", *, scale: float = 1.0, imatrix: str = "",
    threads: int | None = None, force: bool = False, progress: WriteProgress = lambda _share, _what: None,
) -> Merged:  # fmt: skip
    """Write `output`, whole or not at all. It takes room for the model in F32 beside itself meanwhile.

    Raises:
        UsageError: it exists; a quantization that makes no sense or needs an importance matrix; a scale for DoRA.
        UnsupportedArtifact: the adapter is of another model. BackendUnavailable: nothing installed quantizes.
        DiskFull: before the first byte, or at any other. WorkerCrashed, BackendError: the quantizer failed.
    """
    base, quant, output = adapter.base, quants.find(quant).name, output.absolute()
    if not math.isfinite(scale):
        raise UsageError(f"scale={scale} is not a finite number", hint="as in 0.5", param="scale")
    merge.check_merge(adapter.lora, base.content, adapter.where)
    planned = _planned(base, output, quant, imatrix=imatrix, threads=threads, force=force)
    work = output.with_name(f".{output.name}.merging")
    whole = work / f"{output.stem}.{FULL}.gguf"
    with alone(work):
        # We hold the lock, so the process that left this folder is gone.
        shutil.rmtree(work, ignore_errors=True)
        try:
            with writing(output, param="output"):
                work.mkdir()
            job = Quantization(base.artifact, str(whole), FULL, planned.n_threads, allow_requantize=True)
            quantize_worker.quantize(planned.backend, job, _part(progress, 0, "unpacking"))
            with writing(output, param="output"):
                merge.add(whole, adapter.lora, scale, _part(progress, 1, "adding to"))
                sync(whole)
            if quant == FULL:
                _name(whole, output, force)
            else:
                make(_of_file(planned, whole), lambda share, what: progress(_share(2, share), what))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Merged(output, output.stat().st_size, quant, planned.notes)


def _planned(base: QuantizeSource, output: Path, quant: str, *, imatrix: str, threads: int | None, force: bool) -> Plan:
    """What becomes of the model once it is in F32, asked before anything is written."""
    machine = app_context.here().machine
    backend = quantize_plan.backend_for(quant, machine).name
    matrix = read_imatrix(imatrix) if imatrix else None
    lossy = base.lossy or any(_is_lossy(tensor) for tensor in base.content.tensors)
    source = replace(
        base, artifact=replace(base.artifact, quant=FULL), content=_in_full(base.content), lossy=lossy, in_catalog=False
    )
    file = file_recipe.plan(source.content, quant, imatrix=matrix is not None)
    notes: tuple[QuantizeNote, ...] = (SourceLostBefore(FULL),) if lossy else ()
    if quant != FULL:
        notes = preflight.to_content(source, file, matrix, allow_requantize=False)
    preflight.to_output(output, base, replace=force)
    hint = "free space, or choose another folder with --output"
    require_room(output.parent, disk_bytes(base.content, quant), f"{quant} by way of {FULL}", hint=hint)
    matrix_path = os.path.abspath(imatrix) if imatrix else ""
    n_threads = threads or machine.compute_threads
    return Plan(source, backend, quant, file, output, n_threads, matrix_path, replace=force, notes=notes)


def disk_bytes(base: GgufModel, quant: str) -> int:
    """That merging into `base` takes at its highest: the model in full, and the result."""
    whole = _in_full(base)
    return sum(file_recipe.plan(whole, to).data_bytes for to in dict.fromkeys((FULL, quant)))


def _in_full(content: GgufModel) -> GgufModel:
    """As its header will be in F32."""
    full = BY_NAME[FULL]
    tensors = [
        tuple(
            replace(tensor, type=full, n_bytes=full.size_bytes(math.prod(tensor.dims)))
            if file_recipe.allows(tensor)
            else tensor
            for tensor in part.tensors
        )
        for part in content.parts
    ]
    parts = tuple(replace(part, tensors=these) for part, these in zip(content.parts, tensors, strict=True))
    return replace(content, header=parts[0], parts=parts)


def _is_lossy(tensor: GgufTensor) -> bool:
    return tensor.type.block_elems > 1 and tensor.type.name not in file_recipe.NEARLY_LOSSLESS


def _of_file(planned: Plan, whole: Path) -> Plan:
    """The plan for the file that there is now."""
    content = read_model(whole)
    artifact = Artifact("gguf", (str(whole),), planned.source.card.id, FULL)
    source = replace(planned.source, artifact=artifact, content=content)
    file = file_recipe.plan(content, planned.quant, imatrix=bool(planned.imatrix))
    return replace(planned, source=source, file=file)


def _name(whole: Path, output: Path, force: bool) -> None:
    if force:
        os.replace(whole, output)
        return
    try:
        rename_new(whole, output)
    except FileExistsError:
        raise preflight.exists(output) from None


def _share(part: int, share: float) -> float:
    begin, end = _PARTS[part]
    return begin + (end - begin) * share


def _part(progress: WriteProgress, part: int, what: str) -> merge.MergeProgress:
    return lambda done, total, name: progress(_share(part, done / max(1, total)), f"{what} {name}")
