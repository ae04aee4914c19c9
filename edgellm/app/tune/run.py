"""Runs a planned tuning, and keeps what came of it. Whatever ends it, the next run of the same job goes on."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgellm.adaptation import adapter_file, packed
from edgellm.adaptation.checkpoint import CheckpointOrigin, Checkpoints
from edgellm.adaptation.learned import learned
from edgellm.adaptation.loop import Tell
from edgellm.adaptation.lora import Lora
from edgellm.adaptation.worker import HELD_OUT, ROWS, TuneJob, TuneStop, key_of, tune_apart
from edgellm.app import adapters, launch
from edgellm.app import context as app_context
from edgellm.app.merge_adapter import merge_adapter
from edgellm.app.quantize.source import find
from edgellm.app.stored_adapters import LoadedAdapter
from edgellm.app.tune import jobs, kept_settings
from edgellm.app.tune.plan import TunePlan, TuneWork
from edgellm.contract.source import Progress
from edgellm.errors import UsageError
from edgellm.formats.gguf.reader import read_model
from edgellm.store.adapters import AdapterOrigin, AdapterStore
from edgellm.store.library import silent
from edgellm.store.writable import changing_store
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import LaunchPlan
from edgellm.types.tuning import TuneEvaluation, TuneFinished, TuneSample
from edgellm.types.tuning_gate import Gate
from edgellm.types.tuning_options import Tuned

ADAPTER, MERGED = "adapter.gguf", "model.gguf"


@dataclass(frozen=True)
class TuneOutcome:
    """What a run made, in the folder of the job."""

    finished: TuneFinished
    evaluations: tuple[TuneEvaluation, ...]  # of held-out rows
    made: Path  # the adapter, or the model

    @property
    def losses(self) -> tuple[float | None, float | None]:
        """Before anything was learned, and of the step that the adapter is of."""
        first, last = (
            next((e.loss for e in self.evaluations if e.step == step), None) for step in (0, self.finished.step)
        )
        return first, last


def run_tuning(
    planned: TunePlan, work: TuneWork, tell: Tell, stop: TuneStop, progress: Progress = silent
) -> TuneOutcome:
    """Make the steps of one work that are left, in a process of its own, and what is served of them.

    Raises:
        As `adaptation.worker.tune_apart`, and as `merge_adapter` where a model comes of it.
    """
    folder = work.folder
    with changing_store(folder, jobs.NOT_TUNED):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # it holds the data as tokens, and what was learned from them; also one of before
        kept_settings.write(folder, planned.settings)
    if work is planned.work:
        jobs.note(folder, planned.record)
    packed.write(folder / ROWS, work.rows)
    if work.validation is not None:
        packed.write(folder / HELD_OUT, work.validation)
    job = TuneJob(
        planned.preview.tuner,
        planned.base,
        planned.base_sha256,
        planned.settings,
        os.fspath(folder),
        planned.machine.id,
        planned.record.options.nice,
    )
    finished: TuneFinished | None = None
    for event in tune_apart(job, stop):
        if isinstance(event, TuneSample) and work.asked:
            event = msgspec.structs.replace(event, question=work.asked[event.row])  # noqa: PLW2901
        finished = event if isinstance(event, TuneFinished) else None
        tell(event)
    assert finished is not None, "that is its last event"
    made = folder / (MERGED if planned.preview.merged_quant else ADAPTER)
    if finished.end != "asked":
        lora = learned(Path(finished.path), planned.settings, read_model(planned.base.path))
        if planned.preview.merged_quant:
            _merge(planned, lora, made, progress)
        else:
            adapter_file.write(made, lora, replace=True)
    return TuneOutcome(finished, _evaluations(work, job), made)


def _merge(planned: TunePlan, lora: Lora, made: Path, progress: Progress) -> None:
    base = find(planned.base.path, app_context.here())
    adapter = LoadedAdapter(lora, planned.preview.name, base)

    def report(share: float, what: str) -> None:
        progress(round(share * 100), 100, f"making the model: {what}")

    threads = planned.settings.n_threads
    merge_adapter(adapter, made, planned.preview.merged_quant, threads=threads, force=True, progress=report)


def _evaluations(work: TuneWork, job: TuneJob) -> tuple[TuneEvaluation, ...]:
    """Of all runs."""
    key = key_of(job, work.rows, work.validation)
    checkpoint = Checkpoints(work.folder, key, CheckpointOrigin("", "", 0)).newest()
    return checkpoint.evaluations if checkpoint else ()


def to_serve(planned: TunePlan, outcome: TuneOutcome) -> tuple[LaunchPlan, str | None]:
    """How what was made is served, and the adapter that answers then, where it is one."""
    if planned.preview.merged_quant:
        options = LaunchOptions(threads=planned.record.options.threads)
        return launch.plan(str(outcome.made), options, to_chat=True)[0], None
    name = planned.preview.name
    return adapters.beside(planned.served, adapters.asked([f"{name}={outcome.made}"])), name


def keep_tuned(planned: TunePlan, outcome: TuneOutcome, gate: Gate | None, began: float) -> Tuned:
    """Store what was made beside its base, and forget the rows and checkpoints, which hold what the data says.

    `began`: when this run did, by `time.monotonic`.

    Raises:
        UsageError, DiskFull: as `AdapterStore.add`. The folder of the job stays then.
    """
    preview, base, finished = planned.preview, planned.base, outcome.finished
    before, after = outcome.losses
    figures = {"loss_before": before, "loss_after": after, **(gate.figures if gate else {})}
    origin = AdapterOrigin(
        name=preview.name,
        base_id=base.model_id,
        base_quant=base.quant,
        base_sha256=planned.base_sha256,
        base_path=os.path.abspath(base.path),
        method=planned.settings.method,
        source="edgellm tune",
        merged_quant=preview.merged_quant,
        against=gate.against.model if gate and gate.against else "",
        figures={name: value for name, value in figures.items() if value is not None},
    )

    def write(path: Path) -> None:
        shutil.move(outcome.made, path)

    try:
        stored = AdapterStore().add(origin, write)
    except UsageError as refused:
        if refused.param != "name":
            raise
        label = f"{base.model_id}:{preview.name}"
        hint = f"export or remove that one (edgellm adapters rm {label}), and start this again: it is judged and stored"
        raise UsageError(refused.message, hint=hint, param="name") from refused
    shutil.rmtree(planned.work.folder, ignore_errors=True)
    return Tuned(
        model=stored.label,
        path=os.fspath(stored.path),
        steps=finished.n_steps,
        best_step=finished.step,
        wall_s=time.monotonic() - began,
        processor_s=finished.processor_s,
        loss_before=before,
        loss_after=after,
        gate=gate,
    )
