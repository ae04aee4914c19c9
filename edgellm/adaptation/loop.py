"""The loop of tuning: which rows, at what rate, when to look at the held-out rows, when to save, when to end.

A `Trainer` computes. It runs in a worker that may be killed at any moment; started again, it goes on from the newest
checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgellm.adaptation.checkpoint import Checkpoint, Checkpoints
from edgellm.adaptation.packed import Packed
from edgellm.adaptation.samples import Spell, questions, sampled
from edgellm.adaptation.schedule import SAVED_EVERY_S, batches_of_step, count_steps, learning_rate, steps_of_epoch
from edgellm.adaptation.stopping import best, is_over
from edgellm.contract.tuner import Trainer
from edgellm.files import writing
from edgellm.formats.safetensors.writer import write_safetensors
from edgellm.types.tuning import (
    TuneEnd,
    TuneEvaluation,
    TuneEvent,
    TuneFinished,
    TuneProgress,
    TuneSettings,
    TuneStarted,
)

FACTORS = "factors.safetensors"
Tell = Callable[[TuneEvent], None]
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class Course:
    """What a trainer is led through."""

    settings: TuneSettings
    rows: Packed
    held_out: Packed | None
    checkpoints: Checkpoints
    folder: Path  # for the factors
    spell: Spell | None = None  # for sample answers; None = there are none

    @property
    def n_steps(self) -> int:
        return count_steps(self.settings, self.rows.n_rows)


def train(
    course: Course,
    trainer: Trainer,
    tell: Tell,
    *,
    goes_on: Callable[[], bool] = lambda: True,
    clock: Clock = time.monotonic,
) -> TuneFinished:
    """Make the steps that are left, and write the factors of the best one: of the last where nothing is held out.

    Args:
        goes_on: asked after each step. Where it says no, that was the last one.

    Raises:
        BackendError: a loss is no finite number. DiskFull, UsageError: a file cannot be written. BadArtifact.
    """
    return _Training(course, trainer, tell, clock).run(goes_on)


class _Training:
    def __init__(self, course: Course, trainer: Trainer, tell: Tell, clock: Clock) -> None:
        self._course = course
        self._trainer = trainer
        self._tell = tell
        self._evaluations: list[TuneEvaluation] = []
        self._exact = True
        held_out = course.held_out
        self._questions = questions(held_out, course.settings, course.rows) if held_out is not None else []
        self._n_tokens = 0
        self._clock = clock
        self._began, self._processor = clock(), time.process_time()
        self._saved = self._began

    def run(self, goes_on: Callable[[], bool]) -> TuneFinished:
        course, settings = self._course, self._course.settings
        step = first = self._resume()
        end: TuneEnd = "no_gain" if is_over(self._evaluations, settings.patience) else "complete"
        if step == 0 and course.held_out is not None and not self._evaluations:
            self._evaluate(0)
            self._save(0)
        while step < course.n_steps and end == "complete":
            step = self._step(step, first)
            if step < course.n_steps and not goes_on():
                end = "asked"
            if self._is_time_to_evaluate(step) or (end == "asked" and course.held_out is not None):
                self._evaluate(step)
                end = "no_gain" if is_over(self._evaluations, settings.patience) else end
            if self._is_time_to_save(step) or end != "complete":
                self._save(step)
        return self._finish(step, end)

    def _resume(self) -> int:
        """Steps that were made before."""
        course, trainer = self._course, self._trainer
        course.checkpoints.clear_parts()
        checkpoint = course.checkpoints.newest() or Checkpoint(0, {})
        if checkpoint.state:
            trainer.restore(checkpoint.state)
        self._evaluations, self._exact = list(checkpoint.evaluations), checkpoint.exact
        self._tell(
            TuneStarted(
                course.n_steps, trainer.n_trained, trainer.build, checkpoint.step, self._exact, checkpoint.damaged
            )
        )
        return checkpoint.step

    def _step(self, step: int, first: int) -> int:
        course, settings = self._course, self._course.settings
        rows = batches_of_step(settings, course.rows.n_rows, step)
        rate = learning_rate(settings, step, course.n_steps)
        loss = self._trainer.step([course.rows.batch(numbers) for numbers in rows], rate)
        self._n_tokens += _count_tokens(course.rows, [row for numbers in rows for row in numbers])
        elapsed, made = self._clock() - self._began, step + 1 - first
        self._tell(
            TuneProgress(
                step=step + 1,
                n_steps=course.n_steps,
                loss=loss,
                learning_rate=rate,
                n_tokens=self._n_tokens,
                tok_s=self._n_tokens / elapsed,
                left_s=elapsed / made * (course.n_steps - step - 1),
            )
        )
        return step + 1

    def _is_time_to_evaluate(self, step: int) -> bool:
        course, settings = self._course, self._course.settings
        every = settings.eval_every or steps_of_epoch(settings, course.rows.n_rows)
        return course.held_out is not None and (step % every == 0 or step == course.n_steps)

    def _is_time_to_save(self, step: int) -> bool:
        is_best = bool(self._evaluations) and self._best_step() == step
        # How many steps that is was predicted for a machine with nothing else to do.
        is_late = self._clock() - self._saved >= SAVED_EVERY_S
        return is_best or is_late or step % self._course.settings.checkpoint_every == 0 or step == self._course.n_steps

    def _evaluate(self, step: int) -> None:
        held_out = self._course.held_out
        assert held_out is not None
        size = self._course.settings.batch
        batches = [range(at, min(at + size, held_out.n_rows)) for at in range(0, held_out.n_rows, size)]
        losses = tuple(self._trainer.loss(held_out.batch(batch)) for batch in batches)
        n_supervised = held_out.size.n_supervised
        look = TuneEvaluation(step, sum(losses) / n_supervised, n_supervised, False, losses)
        is_best = best((*self._evaluations, look)) is look
        self._evaluations.append(msgspec.structs.replace(look, is_best=is_best))
        self._tell(self._evaluations[-1])
        if self._course.spell is not None:
            for sample in sampled(self._questions, self._trainer, step, self._course.spell):
                self._tell(sample)

    def _best_step(self) -> int:
        evaluation = best(self._evaluations)
        return evaluation.step if evaluation else 0

    def _save(self, step: int) -> None:
        checkpoint = Checkpoint(step, self._trainer.state(), tuple(self._evaluations), self._exact)
        self._course.checkpoints.save(checkpoint, best_step=self._best_step())
        self._saved = self._clock()

    def _finish(self, step: int, end: TuneEnd) -> TuneFinished:
        course, of_step = self._course, step
        if self._evaluations and self._best_step() != step:
            of_step = self._best_step()
            self._trainer.restore(course.checkpoints.at(of_step).state)
        place = course.folder / FACTORS
        with writing(place):
            write_safetensors(place, self._trainer.factors())
        finished = TuneFinished(
            path=os.fspath(place),
            step=of_step,
            n_steps=step,
            end=end,
            wall_s=self._clock() - self._began,
            processor_s=time.process_time() - self._processor,
        )
        self._tell(finished)
        return finished


def _count_tokens(rows: Packed, numbers: Sequence[int]) -> int:
    return int(sum(rows.starts[row + 1] - rows.starts[row] for row in numbers))
