"""Plans a tuning before its first step: with what, how, what it takes, and whether an earlier run is gone on from."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import replace

from edgellm.adaptation.general_text import general_pieces
from edgellm.adaptation.packed import Packed
from edgellm.adaptation.schedule import count_steps, steps_of_epoch
from edgellm.app import launch, merge_adapter
from edgellm.app.adapters import check_no_quant, name_of
from edgellm.app.download import Approve, approved
from edgellm.app.quantize.plan import backend_for
from edgellm.app.tune import jobs, kept_settings
from edgellm.app.tune.choice import chosen
from edgellm.app.tune.data import TuneDataProgress, file_sha256, prepare
from edgellm.app.tune.jobs import TuneJobRecord
from edgellm.app.tune.served_base import ServedBase
from edgellm.contract.asked_tuner import AskedTuner, able, first_sound
from edgellm.contract.backend import Advice
from edgellm.contract.manager import plugins
from edgellm.contract.source import Progress
from edgellm.contract.tuner import Tuner, lacking
from edgellm.errors import BackendUnavailable, UnsupportedArtifact, UsageError, option
from edgellm.estimate import quants
from edgellm.files import files_below, nearest_existing, require_room, safe_name, try_to_write
from edgellm.formats.gguf.reader import read_model
from edgellm.hardware.probe import probe
from edgellm.store.adapters import AdapterStore
from edgellm.store.content_hash import content_hash
from edgellm.store.library import silent
from edgellm.store.writable import changing_store
from edgellm.types.adapter import check_adapter_name
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import LaunchPlan
from edgellm.types.tune_device import device_kind
from edgellm.types.tune_reason import TuneChoice
from edgellm.types.tuning import TuneSettings
from edgellm.types.tuning_data import TrainingChat, TrainingRecord
from edgellm.types.tuning_options import TuneOptions, TunePreview

CONTROL = "control"
_SET_UP = "make setup-tune, or pip install 'edgellm-tune[torch]'"
# Whose result is no adapter, but a model (`adaptation.lora.Lora.require_adapter`).
_NO_ADAPTER = ("dora", "full")
_MERGED_QUANT = "Q8_0"
_CHECKPOINTS = 4  # the newest two, that of the best step, and one that is being written


@dataclass(frozen=True)
class TuneWork:
    """What is learned, and where: `folder` has checkpoints where an earlier run of the same was ended."""

    rows: Packed
    validation: Packed | None
    folder: Path
    asked: tuple[str, ...] = ()  # the end of each question of `validation`


@dataclass(frozen=True)
class TunePlan:
    """`control`: the work that must not help, None = it is not wanted. The rest is for the gate.

    `dealt`: `test` with the answers that the control would have learned of it. `against`: a model that answers, too.
    """

    preview: TunePreview
    served: LaunchPlan
    base_sha256: str
    work: TuneWork
    control: TuneWork | None
    test: tuple[TrainingRecord, ...]
    dealt: tuple[TrainingRecord, ...]
    shots: tuple[TrainingChat, ...]
    general: tuple[str, ...]
    machine: Machine
    record: TuneJobRecord
    against: LaunchPlan | None = None

    @property
    def base(self) -> Artifact:
        return self.served.artifact

    @property
    def settings(self) -> TuneSettings:
        return self.preview.choice.settings


def planned_tuning(
    model: str,
    data: Path,
    options: TuneOptions,
    *,
    progress: Progress = silent,
    approve: Approve = approved,
    reading: TuneDataProgress = lambda _done, _of, _what: None,
    to_run: bool = True,
) -> TunePlan:
    """What `edgellm tune MODEL DATA` does. Without `to_run`, the library that computes may be missing.

    Raises:
        BackendUnavailable: no tuner is installed. UnsupportedArtifact: none tunes this model. NothingFits: no memory.
        DiskFull: no room for it. StoreUnwritable: what is to be kept may not be written.
        UsageError: the data, or an option. What `app.launch.plan` raises for a model that is named.
    """
    name = options.name or name_of(data)
    check_adapter_name(name)
    check_no_quant(name, hint=f"choose another one with {option('name')}")
    general = tuple(general_pieces(options.general))
    if to_run:
        _require_writable()
    data_sha256 = file_sha256(data)
    tuners = _installed()
    missing = _missing(*tuners[0], options)
    if missing is not None and to_run:
        raise BackendUnavailable(missing.text, hint=missing.fix)
    served, _ = launch.plan(
        model, LaunchOptions(threads=options.threads), to_chat=True, progress=progress, approve=approve
    )
    base = served.artifact
    if served.adapters:
        hint = f"tune {base.model_id} itself, or merge the adapter into it first: edgellm adapters merge {model}"
        raise UsageError(f"{model} is a model with an adapter", hint=hint, param="base")
    can = {tuner: lacks for tuner, lacks in tuners if lacks is None or not to_run}
    tuner = first_sound(can, base, probe(measure=False))
    missing = _missing(tuner, can[tuner], options)
    _check(tuner, base, options)
    _check_free(base, name)
    base_sha256 = content_hash(base)
    folder = _folder(base, name, tuner, options, base_sha256=base_sha256, data_sha256=data_sha256)
    earlier = kept_settings.read(folder)
    if to_run:
        jobs.check_idle(folder)
    against = None
    if options.against is not None:
        against, _ = launch.plan(
            options.against, LaunchOptions(threads=options.threads), to_chat=True, progress=progress, approve=approve
        )
    with ServedBase(served) as asked:
        prepared = prepare(data, asked, options, reading)
    machine = probe(measure=False)
    merged_quant = _merged_quant(options, machine)
    choice = chosen(tuner, base, prepared.examples.train, machine, options, begun=earlier)
    if earlier is not None:
        settings = choice.settings
        choice = replace(choice, settings=replace(earlier, n_threads=settings.n_threads, device=settings.device))
    length = choice.settings.length
    rows, validation = prepared.examples.rows(length)
    work = TuneWork(rows, validation, folder, prepared.asked(length))
    control = TuneWork(*prepared.control.rows(length), folder / CONTROL) if prepared.control else None
    disk_bytes = _disk_bytes(base, choice, merged_quant) * (2 if control else 1)
    _require_room(folder, disk_bytes)
    size = rows.size
    n_steps = count_steps(choice.settings, size.n_rows)
    preview = TunePreview(
        base=base.model_id,
        quant=base.quant,
        name=name,
        tuner=tuner.name,
        choice=choice,
        size=size,
        report=prepared.report,
        n_examples=len(prepared.examples.train),
        n_held_out=prepared.n_held_out,
        n_steps=n_steps,
        n_tokens=round(size.n_tokens * n_steps / steps_of_epoch(choice.settings, size.n_rows)),
        resumes=earlier is not None,
        classes=prepared.split.classes,
        untested=prepared.split.untested if prepared.test else (),
        n_alike=len(prepared.split.removed),
        disk_bytes=disk_bytes,
        merged_quant=merged_quant,
        control=control is not None,
        missing=missing.fix if missing else "",
    )
    return TunePlan(
        preview,
        served,
        base_sha256,
        work,
        control,
        prepared.test,
        prepared.dealt,
        prepared.shots,
        general,
        machine,
        TuneJobRecord(
            model=model,
            base_id=base.model_id,
            name=name,
            data=os.path.abspath(data),
            options=options,
            n_steps=n_steps,
        ),
        against,
    )


def _require_writable() -> None:
    """Before the data is read and the model loaded, and not after hours of work.

    Raises:
        StoreUnwritable.
    """
    for folder, failed in ((jobs.root(), jobs.NOT_TUNED), (AdapterStore().root, "what is learned cannot be stored")):
        with changing_store(folder, failed):
            try_to_write(nearest_existing(folder))


def _require_room(folder: Path, n_bytes: int) -> None:
    """What is there of an earlier run needs no more room.

    Raises:
        DiskFull.
    """
    there = sum(files_below(folder).values())
    hint = "free space, or set EDGELLM_HOME to a folder on another disk"
    require_room(folder, max(0, n_bytes - there), "tuning with its checkpoints", hint=hint)


def _installed() -> list[tuple[AskedTuner, Advice | None]]:
    """The tuners, those that can run first, and what each lacks.

    Raises:
        BackendUnavailable: there is none. BackendError: what each of them says of that is not as it must be.
    """
    tuners = able()
    if not tuners:
        what = "no tuner is installed, and memory and time of a tuning are predicted by its formulas"
        raise BackendUnavailable(what, hint=_SET_UP + plugins().suspects("register_tuners"))
    return tuners


def _missing(tuner: Tuner, lacks: Advice | None, options: TuneOptions) -> Advice | None:
    """What keeps it from the device that is asked for, too."""
    of_device = None if options.asked_device is None else lacking(tuner, device_kind(options.asked_device))
    return of_device or lacks


def _check(tuner: Tuner, base: Artifact, options: TuneOptions) -> None:
    if problems := tuner.supports(base):
        what = f"{base.name} {base.quant}".strip()
        raise UnsupportedArtifact(f"{what} cannot be tuned: {'; '.join(problems)}", hint="name another base")
    method = options.method or TuneSettings().method
    if method not in tuner.methods:
        known = ", ".join(sorted(tuner.methods))
        raise UsageError(f"the {tuner.name} tuner has no method {method}", hint=f"it has {known}", param="method")
    if options.to is not None and method not in _NO_ADAPTER:
        what = f"{option('to')} is for {' and '.join(_NO_ADAPTER)}: what {method} learns is an adapter of {base.quant}"
        raise UsageError(what, hint="leave it out", param="to")


def _merged_quant(options: TuneOptions, machine: Machine) -> str:
    """In what the model is written that comes of it; "" where that is an adapter.

    Raises:
        UsageError, BackendUnavailable: nothing here writes it.
    """
    if options.method not in _NO_ADAPTER:
        return ""
    quant = quants.find(options.to or _MERGED_QUANT).name
    backend_for(quant, machine)
    return quant


def _disk_bytes(base: Artifact, choice: TuneChoice, merged_quant: str) -> int:
    """Checkpoints hold what is trained with its moments. They are there still when the result is made."""
    footprint = choice.footprint
    n_bytes = _CHECKPOINTS * (footprint.trained_bytes + footprint.optimizer_bytes) + footprint.trained_bytes
    if merged_quant:
        n_bytes += merge_adapter.disk_bytes(read_model(base.path), merged_quant)
    return n_bytes


def _check_free(base: Artifact, name: str) -> None:
    taken = [stored for stored in AdapterStore().installed() if (stored.base_id, stored.name) == (base.model_id, name)]
    if taken:
        hint = f"choose another {option('name')}, or remove it: edgellm adapters rm {taken[0].label}"
        raise UsageError(f"there is an adapter {taken[0].label} already", hint=hint, param="name")


def _folder(
    base: Artifact, name: str, tuner: Tuner, options: TuneOptions, *, base_sha256: str, data_sha256: str
) -> Path:
    """One for each job: what is equal goes on where it was ended, however it is judged then."""
    same = replace(options, name=name, threads=None, shots=None, general=None, against=None, nice=19)
    fields = msgspec.to_builtins(same)
    del fields["device"]  # what it goes on on may be another; jobs of before there were devices are gone on from, too
    asked = msgspec.json.encode(fields, order="sorted")
    job = hashlib.sha256(f"{base_sha256} {data_sha256} {tuner.name} ".encode() + asked).hexdigest()
    return jobs.root() / safe_name(base.model_id) / f"{name}.{job[:16]}"
