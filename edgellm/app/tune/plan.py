"""Plans a tuning before its first step: with what, how, what it takes, and whether an earlier run is gone on from."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import replace

from edgellm import settings
from edgellm.adaptation import rules
from edgellm.adaptation.packed import Packed
from edgellm.adaptation.schedule import count_steps, steps_of_epoch
from edgellm.app import launch
from edgellm.app.adapters import check_no_quant, name_of
from edgellm.app.download import Approve, approved
from edgellm.app.tune.data import TuneData, TuneDataProgress, file_sha256, prepare
from edgellm.app.tune.served_base import ServedBase
from edgellm.contract.manager import plugins
from edgellm.contract.source import Progress
from edgellm.contract.tuner import Tuner
from edgellm.errors import BackendUnavailable, NothingFits, UnsupportedArtifact, UsageError, option
from edgellm.files import read_regular
from edgellm.hardware.probe import probe
from edgellm.store.adapters import AdapterStore
from edgellm.store.content_hash import content_hash
from edgellm.store.library import silent
from edgellm.store.names import safe_name
from edgellm.types.adapter import check_adapter_name
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import LaunchPlan
from edgellm.types.tune_reason import TuneChoice
from edgellm.types.tuning import TuneSettings
from edgellm.types.tuning_data import TrainingRecord
from edgellm.types.tuning_options import TuneOptions, TunePreview
from edgellm.units import show_size

SETTINGS = "settings.json"
_MAX_BYTES = 1024**2
_SET_UP = "make setup-tune, or pip install 'edgellm-tune[torch]'"
# Whose result is no adapter, but a model (`adaptation.lora.Lora.require_adapter`).
_NO_ADAPTER = ("dora", "full")


@dataclass(frozen=True)
class TunePlan:
    """`folder` is where it works; it has checkpoints where an earlier run of the same job was ended."""

    preview: TunePreview
    served: LaunchPlan
    base_sha256: str
    rows: Packed
    validation: Packed | None
    test: tuple[TrainingRecord, ...]
    folder: Path
    machine: Machine

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
    reading: TuneDataProgress = lambda _done, _of: None,
) -> TunePlan:
    """What `edgellm tune MODEL DATA` does.

    Raises:
        BackendUnavailable: no tuner is installed. UnsupportedArtifact: none tunes this model. NothingFits: no memory.
        UsageError: the data, or an option. What `app.launch.plan` raises for a model that is named.
    """
    tuner = _installed()
    name = options.name or name_of(data)
    check_adapter_name(name)
    check_no_quant(name, hint=f"choose another one with {option('name')}")
    data_sha256 = file_sha256(data)
    served, _ = launch.plan(model, LaunchOptions(), to_chat=True, progress=progress, approve=approve)
    base = served.artifact
    _check(tuner, base, options)
    _check_free(base, name)
    base_sha256 = content_hash(base)
    folder = _folder(base, name, tuner, options, base_sha256=base_sha256, data_sha256=data_sha256)
    with ServedBase(served) as asked:
        prepared = prepare(data, asked, options, reading)
    machine = probe(measure=False)
    choice = _choice(tuner, base, prepared, machine, options)
    earlier = _earlier(folder)
    if earlier is not None:
        choice = replace(choice, settings=replace(earlier, n_threads=choice.settings.n_threads))
    rows, validation = prepared.rows(choice.settings.length)
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
        n_examples=len(prepared.train),
        n_held_out=prepared.n_held_out,
        n_steps=n_steps,
        n_tokens=round(size.n_tokens * n_steps / steps_of_epoch(choice.settings, size.n_rows)),
        resumes=earlier is not None,
    )
    return TunePlan(preview, served, base_sha256, rows, validation, prepared.test, folder, machine)


def _choice(tuner: Tuner, base: Artifact, data: TuneData, machine: Machine, options: TuneOptions) -> TuneChoice:
    """
    Raises:
        NothingFits: with other settings, which would fit.
    """
    budget = options.memory_bytes if options.memory_bytes is not None else machine.memory_budget_bytes
    methods = tuner.methods - {*_NO_ADAPTER}
    formulas = rules.TunerFormulas(
        functools.partial(tuner.footprint, base), lambda run: tuner.rate(base, run, machine), methods
    )
    question = rules.TuneQuestion(
        data.train,
        budget,
        base.ctx_train or max(map(len, data.train)),
        options.threads or machine.compute_threads,
        options.seed,
        options.seconds,
        options.asked(),
    )
    choice = rules.decide(question, formulas)
    if not choice.fits:
        needed = choice.footprint.needed_bytes
        what = f"tuning {base.name} {base.quant} needs {show_size(needed)}, {show_size(budget)} may be used"
        raise NothingFits(what, hint=_instead(choice, options))
    return choice


def _instead(choice: TuneChoice, options: TuneOptions) -> str:
    if choice.instead is None:
        return "free memory, or tune a smaller base, or the same in a smaller quantization"
    names = [name for name in options.asked() if getattr(choice.instead, name) != getattr(choice.settings, name)]
    return f"{' and '.join(option(name, getattr(choice.instead, name)) for name in names)} would fit"


def _installed() -> Tuner:
    """The first tuner, by name, that can run.

    Raises:
        BackendUnavailable.
    """
    advice = None
    for tuner in plugins().tuners().values():
        advice = tuner.missing()
        if advice is None:
            return tuner
    if advice is not None:
        raise BackendUnavailable(advice.text, hint=advice.fix)
    raise BackendUnavailable("no tuner is installed", hint=_SET_UP)


def _check(tuner: Tuner, base: Artifact, options: TuneOptions) -> None:
    if problems := tuner.supports(base):
        what = f"{base.name} {base.quant}".strip()
        raise UnsupportedArtifact(f"{what} cannot be tuned: {'; '.join(problems)}", hint="name another base")
    method = options.method or TuneSettings().method
    if method not in tuner.methods:
        known = ", ".join(sorted(tuner.methods))
        raise UsageError(f"the {tuner.name} tuner has no method {method}", hint=f"it has {known}", param="method")
    if method in _NO_ADAPTER:
        what = f"{method} makes no adapter that can be served beside its base"
        raise UsageError(what, hint=f"take another {option('method')}, as rslora", param="method")


def _check_free(base: Artifact, name: str) -> None:
    taken = [stored for stored in AdapterStore().installed() if (stored.base_id, stored.name) == (base.model_id, name)]
    if taken:
        hint = f"choose another {option('name')}, or remove it: edgellm adapters rm {taken[0].label}"
        raise UsageError(f"there is an adapter {taken[0].label} already", hint=hint, param="name")


def _folder(
    base: Artifact, name: str, tuner: Tuner, options: TuneOptions, *, base_sha256: str, data_sha256: str
) -> Path:
    """One for each job: what is equal goes on where it was ended."""
    asked = msgspec.json.encode(replace(options, name=name, threads=None), order="sorted")
    job = hashlib.sha256(f"{base_sha256} {data_sha256} {tuner.name} ".encode() + asked).hexdigest()
    return settings.current().data_dir / "tuning" / safe_name(base.model_id) / f"{name}.{job[:16]}"


def _earlier(folder: Path) -> TuneSettings | None:
    """Those that were chosen when it began: memory may be another now."""
    try:
        return msgspec.json.decode(read_regular(folder / SETTINGS, _MAX_BYTES), type=TuneSettings)
    except (OSError, msgspec.MsgspecError, UsageError):
        return None
