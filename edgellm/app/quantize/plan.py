"""Plans a quantization before the first byte is written: its result, where it goes, and whether it can be made."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.app import context as app_context
from edgellm.app.quantize import preflight
from edgellm.app.quantize.source import QuantizeSource, find
from edgellm.contract import answers
from edgellm.contract.backend import Backend
from edgellm.contract.manager import plugins
from edgellm.contract.quantizer import Quantizer
from edgellm.contract.source import Progress
from edgellm.errors import BackendUnavailable, UsageError
from edgellm.estimate import file_recipe, quants
from edgellm.estimate.file_recipe import FilePlan
from edgellm.formats.gguf.imatrix import Imatrix, read_imatrix
from edgellm.selection.context import SelectionContext
from edgellm.store.library import MADE, TWICE, Library, silent
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact, ModelFile
from edgellm.types.plan import Decision
from edgellm.types.quantize_note import QuantizeNote
from edgellm.types.reason import Reason
from edgellm.types.request import SelectionRequest

AUTO = "auto"
# Not made by `auto`: for models that were trained in them, or no quantization at all.
_NO_CHOICE = frozenset({"ternary", "low-bit native", "dynamic", "float"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be made of what, and where it goes."""

    source: QuantizeSource
    backend: str
    quant: str
    file: FilePlan
    output: Path | None  # None = into the store
    n_threads: int
    imatrix: str = ""
    requantizes: bool = False  # agreed to, where it loses what counts
    replace: bool = False
    notes: tuple[Reason | QuantizeNote, ...] = ()

    @property
    def file_bytes(self) -> int:
        """Predicted; the header's part to within a few bytes, the tensors' exactly."""
        return self.source.content.header.data_offset + self.file.data_bytes

    @property
    def made_of(self) -> str:
        """The source that the store records: making the same again gives the same entry."""
        what = f"{self.source.key}\n{self.imatrix}"
        kind = TWICE if self.source.lossy or self.file.lossy else MADE
        digest = hashlib.sha256(what.encode()).hexdigest()[:16]
        return f"{kind}{self.source.artifact.quant or 'file'}-{digest}#{self.quant}"

    @property
    def model_file(self) -> ModelFile:
        return ModelFile(self.made_of, self.quant, trust="made here")


def plan(
    model: str,
    to: str,
    *,
    output: Path | None = None,
    imatrix: str = "",
    threads: int | None = None,
    allow_requantize: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Plan | Decision:
    """What `edgellm quantize MODEL --to TO` does. A `Decision` where "auto" wants what is there already.

    Raises:
        UnknownModel, ArtifactError: the source. UsageError: it makes no sense, or costs what was not agreed to.
        BackendUnavailable: nothing installed quantizes. NothingFits: "auto" finds no quantization that runs here.
        DiskFull: no room for it, before the first byte.
    """
    context = app_context.here()
    machine = context.machine
    source = find(model, context, progress)
    matrix = read_imatrix(imatrix) if imatrix else None
    notes: tuple[Reason | QuantizeNote, ...] = ()
    if to.lower() == AUTO:
        decision = _best_quant(source, context, matrix, allow_requantize=allow_requantize)
        assert decision.choice is not None
        if decision.choice.source == _own(source):
            return decision
        to, notes = decision.choice.quant, decision.reasons
    quant = quants.find(to).name
    backend, n_threads = backend_for(quant, machine), threads or machine.compute_threads
    if not 1 <= n_threads <= 1024:
        raise UsageError(f"threads={n_threads} is out of range", hint="allowed: 1 to 1024", param="threads")
    file = file_recipe.plan(source.content, quant, imatrix=matrix is not None)
    notes += preflight.to_content(source, file, matrix, allow_requantize=allow_requantize)
    where = None if output is None else output.absolute()
    if where is None and not source.in_catalog:
        where = Path(source.artifact.path).absolute().with_name(f"{_stem(source.artifact)}-{quant}.gguf")
    matrix_path = os.path.abspath(imatrix) if imatrix else ""
    again = bool(file.requantized)
    planned = Plan(source, backend.name, quant, file, where, n_threads, matrix_path, again, force, notes)
    _check_target(planned)
    return planned


def _check_target(planned: Plan) -> None:
    if planned.output is not None:
        preflight.to_output(planned.output, planned.source, replace=planned.replace)
        preflight.to_size(planned.file_bytes, planned.output.parent, planned.quant)
        return
    library = Library()
    existing = None if planned.replace else library.locate(planned.model_file, planned.source.card.id)
    if existing is not None:
        raise preflight.exists(Path(existing.path))
    preflight.to_size(planned.file_bytes, library.root, planned.quant)


def backend_for(quant: str, machine: Machine) -> Backend:
    """The first installed backend, by name, that writes `quant` and runs here.

    Raises:
        BackendUnavailable: there is none. UsageError: it is made another way.
    """
    refusals = []
    for name, backend in plugins().backends().items():
        if not isinstance(backend, Quantizer):
            continue
        problems = answers.check(backend, machine)
        if quant in backend.quantizes_to and not problems:
            return backend
        refusals.append(f"{name}: {'; '.join(problems) or f'it does not write {quant}'}")
    if quant == "I2_S":
        raise UsageError("I2_S is made by conversion", hint="edgellm convert MODEL --to i2_s --out FILE", param="to")
    why = "; ".join(refusals) or "no backend that is installed quantizes"
    raise BackendUnavailable(f"{quant} cannot be made: {why}", hint="see `edgellm plugins`")


def _stem(source: Artifact) -> str:
    """The file's name without its quantization."""
    stem = Path(source.path).name.removesuffix(".gguf")
    for mark in (f"-{source.quant}", f".{source.quant}"):
        stem = stem.removesuffix(mark)
    return stem


def _own(source: QuantizeSource) -> str:
    return f"file:{source.artifact.path}"


def _best_quant(
    source: QuantizeSource, context: SelectionContext, matrix: Imatrix | None, *, allow_requantize: bool
) -> Decision:
    """What selection chooses among everything that can be made, and the source itself.

    Raises:
        NothingFits, BackendUnavailable. UsageError: everything there is to make would be quantized twice.
    """
    from edgellm.selection.decide import decide

    content, has = source.content, source.artifact.quant
    offered = [ModelFile(_own(source), has, tensor_bytes=content.tensor_bytes, bytes=content.file_bytes)]
    refused = made_again = False
    for quant in quants.QUANTS.values():
        if quant.kind in _NO_CHOICE or not quant.predictable or not quant.mainline or quant.name == has:
            continue
        file = file_recipe.plan(content, quant.name, imatrix=matrix is not None)
        if file.impossible or (file.need_imatrix and matrix is None) or file.tensor_bytes >= content.tensor_bytes:
            continue
        if file.lossy and not allow_requantize:
            refused = True
            continue
        made_from = has if file.requantized else ""
        made_again |= bool(made_from)
        offered.append(ModelFile(f"file:{quant.name}", quant.name, tensor_bytes=file.tensor_bytes, made_from=made_from))
    if len(offered) == 1 and refused:
        raise preflight.only_twice(source)
    card = replace(source.card, kind="chat", files=tuple(offered))
    narrowed = replace(context.narrowed([card]), stored=frozenset(file.source for file in offered))
    if made_again:
        # What was measured of published files says nothing of files that are made from a quantized one.
        narrowed = replace(narrowed, divergences={})
    return decide(narrowed, SelectionRequest())
