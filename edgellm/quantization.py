"""A model in another quantization, made here: what would come of it, whether it can be, and the making.

    planned = plan("smollm2-135m-instruct", "Q5_K_M")     # raises where it cannot be made
    made = make(planned)                                  # in a process of its own; whole, or nothing

What is made of a model of the catalog is kept in the store under the model's name, or where `output` says and known
to the store: `edgellm serve MODEL:QUANT` finds it in either case.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from edgellm import launch, settings
from edgellm.backend import Backend
from edgellm.catalog import lookup
from edgellm.catalog.identify import identify
from edgellm.catalog.recognize import recognize
from edgellm.errors import (
    BackendError,
    BackendUnavailable,
    BadArtifact,
    DiskFull,
    UnknownModel,
    UnsupportedArtifact,
    UsageError,
)
from edgellm.estimate import file_recipe, quality, quants
from edgellm.estimate.file_recipe import FilePlan
from edgellm.formats import gguf
from edgellm.formats.gguf import GgufModel
from edgellm.formats.imatrix import Imatrix, read_imatrix
from edgellm.machine import Machine
from edgellm.model import Artifact, ModelCard, ModelFile
from edgellm.plan import Decision
from edgellm.plugins import plugins
from edgellm.quantizer import Quantization, Quantizer
from edgellm.request import SelectionRequest
from edgellm.runtime import quantizing
from edgellm.store import entry
from edgellm.store.card import local_card
from edgellm.store.library import MADE, SPARE_BYTES, TWICE, Library
from edgellm.store.names import safe_name
from edgellm.units import show_size

AUTO = "auto"
Progress = Callable[[float, str], None]  # share that is done, what is being written
# Not made by `auto`: for models that were trained in them, or no quantization at all.
_NO_CHOICE = frozenset({"ternary", "low-bit native", "dynamic", "float"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be made of what, and where it goes."""

    source: Artifact
    card: ModelCard
    in_catalog: bool
    lossy: bool  # the source was quantized before, whatever type it has now
    backend: str
    quant: str
    file: FilePlan
    output: Path | None  # None = into the store
    n_threads: int
    imatrix: str = ""
    allow_requantize: bool = False
    replace: bool = False
    header_bytes: int = 0  # of the source's first file; the new one's is about as long
    notes: tuple[str, ...] = ()

    @property
    def file_bytes(self) -> int:
        """Predicted; the header's part to within a few bytes, the tensors' exactly."""
        return self.header_bytes + self.file.data_bytes

    @property
    def made_of(self) -> str:
        """The source that the store remembers: the same again is the same entry."""
        what = f"{self.source.sha256 or self.source.path}\n{self.imatrix}"
        kind = TWICE if self.lossy or self.file.requantized else MADE
        return f"{kind}{self.source.quant or 'file'}-{hashlib.sha256(what.encode()).hexdigest()[:16]}#{self.quant}"

    @property
    def model_file(self) -> ModelFile:
        return ModelFile(self.made_of, self.quant, trust="made here")


@dataclass(frozen=True, slots=True)
class Made:
    path: Path
    bytes: int
    tensor_bytes: int
    seconds: float
    name: str = ""  # what `edgellm serve` finds it by; "" = its path


def plan(
    model: str,
    to: str,
    *,
    output: Path | None = None,
    imatrix: str = "",
    threads: int | None = None,
    allow_requantize: bool = False,
    force: bool = False,
) -> Plan | Decision:
    """What `edgellm quantize MODEL --to TO` does. A `Decision` where "auto" wants what is there already.

    Raises:
        UnknownModel, ArtifactError: the source. UsageError: it makes no sense, or costs what was not agreed to.
        BackendUnavailable: nothing installed quantizes. NothingFits: "auto" finds no quantization that runs here.
        DiskFull: no room for it, before the first byte.
    """
    from edgellm.hardware.probe import probe

    machine = probe(refine=True)
    source, card, in_catalog, lossy = _source(model)
    content = _readable(source)
    matrix = read_imatrix(imatrix) if imatrix else None
    notes: tuple[str, ...] = ()
    if to.lower() == AUTO:
        decision = _wanted(card, source, content, machine, matrix, allow_requantize=allow_requantize)
        assert decision.choice is not None
        if decision.choice.source == _own(source):
            return decision
        to, notes = decision.choice.quant, decision.reasons
    quant = quants.find(to).name
    backend, n_threads = _backend(quant, machine), threads or machine.compute_threads
    if not 1 <= n_threads <= 1024:
        raise UsageError(f"threads={n_threads} is out of range", hint="allowed: 1 to 1024", param="threads")
    file = file_recipe.plan(content, quant, imatrix=matrix is not None)
    notes += _check(card, source, file, matrix, allow_requantize=allow_requantize)
    if lossy:
        notes += (f"The source was quantized before it became {source.quant}; what that lost stays lost.",)
    where = None if output is None else output.absolute()
    if where is None and not in_catalog:
        where = Path(source.path).absolute().with_name(f"{_stem(source)}-{quant}.gguf")
    made = Plan(
        source, card, in_catalog, lossy, backend.name, quant, file, where, n_threads,
        os.path.abspath(imatrix) if imatrix else "", allow_requantize, force, content.header.data_offset, notes,
    )  # fmt: skip
    _check_target(made)
    return made


def make(planned: Plan, progress: Progress = lambda _share, _what: None) -> Made:
    """Quantize, check what was written against the plan, and give it its name. Nothing stays of what is not whole.

    Raises:
        WorkerCrashed, BackendError: the quantizer failed, or wrote something else. DiskFull.
        UsageError: another process makes the same file, or the target came up meanwhile.
    """
    started = time.monotonic()
    library = Library()
    folder = library.root / safe_name(planned.card.id) if planned.output is None else planned.output.parent
    with _alone(planned.output or folder / planned.quant):
        # The lock is held: whoever left this is gone.
        work = folder / f".{planned.output.name if planned.output else planned.quant}.quantizing"
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir(parents=True)
            target = work / (planned.output.name if planned.output else f"{planned.card.id}.{planned.quant}.gguf")
            _write(planned, target, progress)
            written = _verified(planned, target)
            progress(1.0, "storing")
            path = _keep(planned, library, target)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}", hint="choose another --output") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    name = f"{planned.card.id}:{planned.quant}" if planned.in_catalog else ""
    return Made(path, written.file_bytes, written.tensor_bytes, time.monotonic() - started, name)


def _write(planned: Plan, target: Path, progress: Progress) -> None:
    sizes = [math.prod(p.tensor.dims) for p in planned.file.tensors]
    done = [0]
    for size in sizes:
        done.append(done[-1] + size)

    def tell(index: int, total: int, name: str) -> None:
        share = done[index] / done[-1] if total == len(sizes) else index / max(1, total)
        progress(share, f"{name} ({index + 1} of {total})")

    job = Quantization(
        planned.source, str(target), planned.quant, planned.n_threads, planned.imatrix, planned.allow_requantize
    )
    quantizing.quantize(planned.backend, job, tell)


def _verified(planned: Plan, target: Path) -> GgufModel:
    """The written file, read again: every tensor there, of the type and size that were predicted.

    Raises:
        BackendError: something else was written. BadArtifact: it is no sound file.
    """
    written = gguf.read_model(target)
    expected = {p.tensor.name: (p.tensor.dims, p.type) for p in planned.file.tensors}
    found = {tensor.name: (tensor.dims, tensor.type.name) for tensor in written.tensors}
    if found != expected:
        wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        one = wrong[0]
        raise BackendError(
            f"{planned.backend} wrote {len(wrong)} tensors otherwise than predicted: {one} is {found.get(one)}, "
            f"{expected.get(one)} was expected",
            hint="its library's rules differ from those of llama.cpp b11434; please report it",
        )
    kept = {key for key in gguf.read_model(planned.source.path).header.metadata if not key.startswith("split.")}
    missing = sorted(kept - set(written.header.metadata))
    if missing:
        raise BackendError(f"{planned.backend} left out {len(missing)} keys, the first is {missing[0]}")
    return written


def _keep(planned: Plan, library: Library, written: Path) -> Path:
    if planned.output is None:
        return Path(library.keep(planned.card, planned.model_file, written).path)
    with open(written, "rb+") as file:
        os.fsync(file.fileno())
    if planned.replace:
        os.replace(written, planned.output)
    else:
        # Unlike a rename, a link never takes the place of a file that came up meanwhile.
        try:
            os.link(written, planned.output)
        except FileExistsError:
            raise _exists(planned.output) from None
        except OSError:  # a file system without links
            os.replace(written, planned.output)
    if planned.in_catalog:
        size = planned.output.stat().st_size
        library.fetch(planned.card, ModelFile(f"file:{quote(str(planned.output))}", planned.quant, bytes=size))
    return planned.output


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the lock of what is being made, against other processes of this user."""
    from filelock import FileLock, Timeout

    locks = settings.cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{hashlib.sha256(str(target).encode()).hexdigest()[:32]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{target} is being made by another process", hint="wait for it") from None
    try:
        yield
    finally:
        lock.release()


def _source(model: str) -> tuple[Artifact, ModelCard, bool, bool]:
    """The file to start from, the model's row, whether the catalog knows it, and whether it is known to be lossy."""
    rows = launch.cards(twice=True)
    known = {row.id for row in lookup.catalog().values()} | {row.id for row in rows if row.trust != "header"}
    name, _, quant = model.partition(":")
    if os.path.exists(model) and name.lower() not in known:
        artifact = identify(model)
        stored = next((s for s in Library().installed() if s.files and _same(s.artifact().path, artifact.path)), None)
        row = next((row for row in rows if stored is not None and row.id == stored.model_id), None)
        if row is None:
            _readable(artifact)
            row = recognize(local_card(Path(artifact.path)), [row for row in rows if row.id in known])
        lossy = stored is not None and stored.source.startswith(TWICE)
        return replace(artifact, model_id=row.id), row, row.id in known, lossy
    row = lookup.find(name, rows)
    artifact, lossy = _stored(row, quant)
    return artifact, row, True, lossy


def _stored(row: ModelCard, quant: str) -> tuple[Artifact, bool]:
    """The best file of the model that is here: what was published before what was made, then by bits."""
    library = Library()
    here = [s for s in library.installed() if s.model_id == row.id and s.format == "gguf" and not s.problem]
    wanted = [s for s in here if not quant or s.quant.lower() == quant.lower()]
    best = sorted(wanted, key=lambda s: (s.source.startswith(MADE), -_bits(s.quant), s.quant))
    for stored in best:
        checked = entry.check(stored)
        if not checked.problem:
            return checked.artifact(), checked.source.startswith(TWICE)
    local = [f for f in row.files if f.source.startswith("file:") and (not quant or f.quant.lower() == quant.lower())]
    local = sorted(local, key=lambda file: -_bits(file.quant)) or [f for f in row.files if quant and f.quant == quant]
    if local:
        return library.fetch(row, local[0]), False
    offered = ", ".join(sorted({file.quant for file in row.files}, key=lambda name: -_bits(name)))
    what = f"{row.id} {quant}".strip()
    raise UnknownModel(
        f"no file of {what} is here", hint=f"name one to fetch, as {row.id}:QUANT, of: {offered or 'none'}"
    )


def _bits(quant: str) -> float:
    found = quants.QUANTS.get(quant)
    return found.bits if found else 0.0


def _same(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _readable(source: Artifact) -> GgufModel:
    """The source's header.

    Raises:
        UnsupportedArtifact: no GGUF, big-endian, or an architecture whose rules are not known.
    """
    if source.format != "gguf":
        raise UnsupportedArtifact(
            f"{source.path} is of format {source.format}, the quantizer reads GGUF",
            hint="`edgellm convert` writes ternary models; others: llama.cpp's convert_hf_to_gguf.py",
        )
    content = gguf.read_model(source.path)
    if content.header.big_endian:
        raise UnsupportedArtifact(f"{source.path} is big-endian", hint="quantize it on a machine that is too")
    if content.header.architecture in file_recipe.UNKNOWN_RULES:
        raise UnsupportedArtifact(
            f"which types {content.header.architecture} gets is not known here", hint="use llama.cpp's llama-quantize"
        )
    return content


def _backend(quant: str, machine: Machine) -> Backend:
    """The first installed backend, by name, that writes `quant` and runs here."""
    refusals = []
    for name, backend in plugins().backends().items():
        if not isinstance(backend, Quantizer):
            continue
        problems = backend.check(machine)
        if quant in backend.quantizes_to and not problems:
            return backend
        refusals.append(f"{name}: {'; '.join(problems) or f'it does not write {quant}'}")
    if quant == "I2_S":
        raise UsageError("I2_S is made by conversion", hint="edgellm convert MODEL --to i2_s --out FILE", param="to")
    why = "; ".join(refusals) or "no backend that is installed quantizes"
    raise BackendUnavailable(f"{quant} cannot be made: {why}", hint="see `edgellm plugins`")


def _check(
    card: ModelCard, source: Artifact, file: FilePlan, matrix: Imatrix | None, *, allow_requantize: bool
) -> tuple[str, ...]:
    """What has to be known of the result.

    Raises:
        UsageError: it makes no sense, or costs what was not agreed to. BadArtifact: another model's matrix.
    """
    if not any(p.changes for p in file.tensors):
        raise UsageError(f"{source.path} is {file.quant} already", hint="choose another type with --to", param="to")
    for p in file.impossible[:1]:
        row = f"rows of {p.tensor.dims[0]} weights ({p.tensor.name})"
        raise UsageError(f"{file.quant} cannot hold {row}", hint="choose another type with --to", param="to")
    notes = _check_matrix(file, matrix)
    if file.requantized:
        was, kept = _most(file), quality.retention(file.quant, card.params).mid
        before = quality.retention(was, card.params).mid if was in quants.QUANTS else 1.0
        cost = (
            f"{len(file.requantized)} tensors of {Path(source.path).name} are quantized already, most of them {was}: "
            f"{before:.1%} of the ability are left, about {before * kept:.1%} would be after {file.quant}"
        )
        if not allow_requantize:
            hint = "start from an F16 or BF16 file, or accept the loss with --allow-requantize"
            raise UsageError(cost, hint=hint, param="allow-requantize")
        notes = (f"{cost}.", *notes)
    fallback = [p for p in file.tensors if p.type != p.asked]
    if fallback:
        notes = (*notes, f"{len(fallback)} tensors have rows that are no multiple of the block and get larger types.")
    return notes


def _check_matrix(file: FilePlan, matrix: Imatrix | None) -> tuple[str, ...]:
    if matrix is None:
        if file.need_imatrix:
            first = file.need_imatrix[0]
            raise UsageError(
                f"{file.quant} needs an importance matrix: {len(file.need_imatrix)} tensors become {first.type} and "
                "similar, and would be garbage",
                hint="give one with --imatrix (llama-imatrix makes it), or choose IQ4_XS, Q3_K_M or Q2_K",
                param="imatrix",
            )
        return ()
    fits = 0
    for p in file.tensors:
        known = matrix.entries.get(p.tensor.name)
        if known is None:
            if p in file.need_imatrix:
                hint = "make one with llama-imatrix from this very model"
                raise BadArtifact(f"{matrix.header.where} has no entry for {p.tensor.name}", hint=hint)
            continue
        wanted = p.tensor.dims[0] * (p.tensor.dims[2] if len(p.tensor.dims) > 2 else 1)
        if known.n_values != wanted and p.tensor.name != "token_embd.weight":
            what = f"{p.tensor.name} has {known.n_values} values, {wanted} are needed"
            raise BadArtifact(f"{matrix.header.where}: {what}", hint="it is of another model")
        fits += 1
    n_changed = sum(p.changes for p in file.tensors)
    return (f"The importance matrix covers {fits} tensors, {n_changed} are quantized.",)


def _most(file: FilePlan) -> str:
    """The type that most weights of what is quantized already have."""
    weights: dict[str, int] = {}
    for p in file.requantized:
        weights[p.tensor.type.name] = weights.get(p.tensor.type.name, 0) + math.prod(p.tensor.dims)
    return max(weights, key=lambda name: weights[name])


def _check_target(planned: Plan) -> None:
    """Refuse before the first byte what cannot be put there."""
    if planned.output is None:
        found = None if planned.replace else Library().locate(planned.model_file, planned.card.id)
        if found is not None:
            raise _exists(Path(found.path))
    elif planned.output.is_dir():
        raise UsageError(f"{planned.output} is a folder", hint="give --output a file's name", param="output")
    elif planned.output.exists() and (not planned.replace or _same(str(planned.output), planned.source.path)):
        raise _exists(planned.output)
    folder = Library().root if planned.output is None else planned.output.parent
    if planned.output is not None and not folder.is_dir():
        raise UsageError(f"{folder} does not exist", hint="make it, or choose another --output", param="output")
    while not folder.exists():
        folder = folder.parent
    needed, free = planned.file_bytes + SPARE_BYTES, shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"{planned.quant} needs {show_size(needed)} in {folder}, {show_size(free)} are free",
            hint="free space, or choose another folder with --output",
        )


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists already", hint="give another --output, or replace it with --force")


def _stem(source: Artifact) -> str:
    """The file's name without its quantization."""
    stem = Path(source.path).name.removesuffix(".gguf")
    for mark in (f"-{source.quant}", f".{source.quant}"):
        stem = stem.removesuffix(mark)
    return stem


def _own(source: Artifact) -> str:
    return f"file:{source.path}"


def _wanted(
    card: ModelCard,
    source: Artifact,
    content: GgufModel,
    machine: Machine,
    matrix: Imatrix | None,
    *,
    allow_requantize: bool,
) -> Decision:
    """What selection wants of all that can be made, and of the source itself.

    Raises:
        NothingFits, BackendUnavailable. UsageError: everything there is to make would be quantized twice.
    """
    from edgellm.selection.decide import decide
    from edgellm.selection.facts import backend_facts

    offered = [ModelFile(_own(source), source.quant, tensor_bytes=content.tensor_bytes, bytes=content.file_bytes)]
    twice: FilePlan | None = None
    for quant in quants.QUANTS.values():
        if quant.kind in _NO_CHOICE or not quant.predictable or not quant.mainline or quant.name == source.quant:
            continue
        file = file_recipe.plan(content, quant.name, imatrix=matrix is not None)
        if file.impossible or (file.need_imatrix and matrix is None) or file.tensor_bytes >= content.tensor_bytes:
            continue
        if file.requantized and not allow_requantize:
            twice = file
            continue
        offered.append(ModelFile(f"file:{quant.name}", quant.name, tensor_bytes=file.tensor_bytes))
    if len(offered) == 1 and twice is not None:
        _check(card, source, twice, matrix, allow_requantize=False)
    facts = backend_facts(plugins().backends().values(), machine)
    row = replace(card, kind="chat", files=tuple(offered))
    return decide(machine, SelectionRequest(), [row], facts, {file.source for file in offered})
