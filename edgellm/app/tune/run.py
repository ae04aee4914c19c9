"""Runs a planned tuning, and keeps what came of it. Whatever ends it, the next run of the same job goes on."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgellm.adaptation import adapter_file, packed
from edgellm.adaptation.checkpoint import CheckpointOrigin, Checkpoints
from edgellm.adaptation.learned import learned
from edgellm.adaptation.loop import Tell
from edgellm.adaptation.worker import HELD_OUT, ROWS, TuneJob, TuneStop, key_of, tune_apart
from edgellm.app.tune.plan import SETTINGS, TunePlan
from edgellm.files import write_atomic, writing
from edgellm.formats.gguf.reader import read_model
from edgellm.store.adapters import AdapterOrigin, AdapterStore
from edgellm.types.tuning import TuneEvaluation, TuneFinished
from edgellm.types.tuning_gate import PairedGain
from edgellm.types.tuning_options import Tuned

ADAPTER = "adapter.gguf"


@dataclass(frozen=True)
class TuneOutcome:
    """What a run made, in the folder of the job."""

    finished: TuneFinished
    evaluations: tuple[TuneEvaluation, ...]  # of held-out rows
    adapter: Path

    @property
    def losses(self) -> tuple[float | None, float | None]:
        """Before anything was learned, and of the step that the adapter is of."""
        first, last = (
            next((e.loss for e in self.evaluations if e.step == step), None) for step in (0, self.finished.step)
        )
        return first, last


def run_tuning(planned: TunePlan, tell: Tell, stop: TuneStop) -> TuneOutcome:
    """Make the steps that are left, in a process of its own.

    Raises:
        As `adaptation.worker.tune`.
    """
    folder = planned.folder
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / SETTINGS, msgspec.json.encode(planned.settings), sync=True)
    packed.write(folder / ROWS, planned.rows)
    if planned.validation is not None:
        packed.write(folder / HELD_OUT, planned.validation)
    job = TuneJob(
        planned.preview.tuner,
        planned.base,
        planned.base_sha256,
        planned.settings,
        os.fspath(folder),
        planned.machine.id,
    )
    finished: TuneFinished | None = None
    for event in tune_apart(job, stop):
        finished = event if isinstance(event, TuneFinished) else None
        tell(event)
    assert finished is not None, "that is its last event"
    lora = learned(Path(finished.path), planned.settings, read_model(planned.base.path))
    adapter_file.write(folder / ADAPTER, lora, replace=True)
    return TuneOutcome(finished, _evaluations(planned, job), folder / ADAPTER)


def _evaluations(planned: TunePlan, job: TuneJob) -> tuple[TuneEvaluation, ...]:
    """Of all runs."""
    key = key_of(job, planned.rows, planned.validation)
    checkpoint = Checkpoints(planned.folder, key, CheckpointOrigin("", "", 0)).newest()
    return checkpoint.evaluations if checkpoint else ()


def keep_tuned(planned: TunePlan, outcome: TuneOutcome, gain: PairedGain | None) -> Tuned:
    """Store the adapter beside its base, and forget the rows and checkpoints, which hold what the data says.

    Raises:
        UsageError, DiskFull: as `AdapterStore.add`. The folder of the job stays then.
    """
    preview, base, finished = planned.preview, planned.base, outcome.finished
    before, after = outcome.losses
    figures = {"loss_before": before, "loss_after": after}
    if gain is not None:
        names = ("before", "after", "low", "high", "n_rows")
        figures |= {f"{gain.measure}_{name}": float(getattr(gain, name)) for name in names}
    origin = AdapterOrigin(
        name=preview.name,
        base_id=base.model_id,
        base_quant=base.quant,
        base_sha256=planned.base_sha256,
        base_path=os.path.abspath(base.path),
        method=planned.settings.method,
        source="edgellm tune",
        figures={name: value for name, value in figures.items() if value is not None},
    )

    def write(path: Path) -> None:
        shutil.copyfile(outcome.adapter, path)

    stored = AdapterStore().add(origin, write)
    shutil.rmtree(planned.folder, ignore_errors=True)
    return Tuned(
        model=stored.label,
        path=os.fspath(stored.path),
        steps=finished.n_steps,
        best_step=finished.step,
        wall_s=finished.wall_s,
        processor_s=finished.processor_s,
        loss_before=before,
        loss_after=after,
        gain=gain,
    )
