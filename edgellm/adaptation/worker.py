"""Tunes in a process of its own: `python -m edgellm.adaptation.worker`. It may be killed at any moment.

The job goes in as one line of JSON. Lines come out: that it listens, events, or what failed. Whoever asks it to end
gets a checkpoint after the step at hand; started again with the same job, it goes on from there. It yields to other
programs (`priority`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgellm.adaptation import packed
from edgellm.adaptation.checkpoint import CheckpointOrigin, Checkpoints, TuneKey
from edgellm.adaptation.loop import Course, Tell, train
from edgellm.adaptation.packed import Packed
from edgellm.adaptation.priority import LAST, yield_to_others
from edgellm.adaptation.samples import Spell
from edgellm.contract.answers import hint_for
from edgellm.contract.asked_tuner import asked_tuner
from edgellm.contract.backend import worker_environment
from edgellm.contract.child import Child, End
from edgellm.contract.failed import Failed
from edgellm.contract.failure import told
from edgellm.contract.manager import plugins
from edgellm.contract.own_python import python
from edgellm.contract.parent import connect
from edgellm.errors import (
    BackendError,
    EdgeLLMError,
    UsageError,
    WorkerCrashed,
    option,
    speak_in_flags,
    speaks_in_flags,
)
from edgellm.files import locked
from edgellm.formats.gguf.reader import read_header
from edgellm.formats.tokenizer.from_gguf import read_vocabulary
from edgellm.types.model import Artifact
from edgellm.types.tuning import (
    TuneEvaluation,
    TuneEvent,
    TuneFinished,
    TuneProgress,
    TuneSample,
    TuneSettings,
    TuneStarted,
)

ROWS, HELD_OUT, LOCK = "rows.npz", "held_out.npz", ".lock"


class TuneJob(msgspec.Struct, frozen=True):
    """What is tuned with what, in a folder that has the ROWS, perhaps HELD_OUT ones, and gets checkpoints and factors.

    Of an interrupted job the folder is kept, and an equal one goes on there.
    """

    tuner: str
    base: Artifact
    base_sha256: str  # of its content
    settings: TuneSettings
    folder: str
    machine: str  # that equal bits depend on
    nice: int = LAST  # how far it yields


def key_of(job: TuneJob, rows: Packed, held_out: Packed | None) -> TuneKey:
    """What the checkpoints of the job belong to."""
    return TuneKey(job.base_sha256, rows.sha256, held_out.sha256 if held_out else "", job.settings, job.tuner)


class _Order(msgspec.Struct):
    job: TuneJob
    in_flags: bool


class _Listening(msgspec.Struct, tag=True):
    """From the worker: from now on it can be asked to end."""


_decoder = msgspec.json.Decoder(
    _Listening | TuneStarted | TuneProgress | TuneEvaluation | TuneSample | TuneFinished | Failed
)


class TuneStop:
    """Asks a tuning to end: for any thread, and for a handler of signals."""

    def __init__(self) -> None:
        self.asked = False
        self._child: Child | None = None

    def ask(self) -> None:
        """Twice is fine."""
        self.asked = True
        if self._child is not None:
            self._child.ask_to_end()

    @contextlib.contextmanager
    def reaches(self, child: Child) -> Iterator[None]:
        """While the block lasts, that child is told; also of what was asked before."""
        self._child = child
        try:
            if self.asked:
                child.ask_to_end()
            yield
        finally:
            self._child = None


def tune_apart(job: TuneJob, stop: TuneStop) -> Iterator[TuneEvent]:
    """Run `job` in a process of its own; the last event is a `TuneFinished`. The process ends with the generator.

    To be used in a thread that lasts longer (`contract.confine`).

    Closing the generator asks the process to end, and waits for the step at hand.

    Raises:
        WorkerCrashed: it was killed, or native code died. UsageError: another process tunes in this folder.
        What the tuner raises (`edgellm.contract.tuner`), and `adaptation.loop.train`. OSError: no process starts.
    """
    order = msgspec.json.encode(_Order(job, speaks_in_flags()))
    environment = worker_environment(plugins().tuners().get(job.tuner))
    command = python("edgellm.adaptation.worker")
    with _alone(Path(job.folder)), Child(command, env=environment, question=order) as child:
        lines = child.lines()
        next(lines, None)  # it listens, or has died
        with stop.reaches(child):
            for line in lines:
                match _decoder.decode(line):
                    case Failed() as failed:
                        raise failed.error()
                    case _Listening():
                        continue
                    case event:
                        try:
                            yield event
                        except GeneratorExit:
                            child.ask_to_end()
                            for _ in lines:  # until it has saved
                                pass
                            raise
                        if isinstance(event, TuneFinished):
                            return
    raise _crashed(child.end)


def _alone(folder: Path) -> contextlib.AbstractContextManager[None]:
    def busy() -> None:
        raise UsageError(f"another process tunes in {folder}", hint="wait for it, or choose another name", param="name")

    return locked(folder / LOCK, busy)


def _crashed(end: End) -> WorkerCrashed:
    again = "start it again: it goes on from its last checkpoint"
    last = end.last_words
    if not end.signal:
        message = f"tuning ended with status {end.returncode}{': ' + last if last else ''}"
        return WorkerCrashed(message, hint=again, reason=last)
    smaller = f"; if memory was short, begin anew with a smaller {option('batch')} or {option('length')}"
    message = f"tuning was killed by {end.signal}{': ' + last if last else ''}"
    return WorkerCrashed(message, hint=again + smaller * (end.signal == "SIGKILL"), reason=end.signal)


class _Asked:
    """Before the first step of this run nothing would be lost, so it ends at once where that is asked."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._tell: Tell | None = None
        self._began = time.monotonic()

    def begin(self, tell: Tell) -> None:
        """From now on it may leave with a `TuneFinished`."""
        self._tell = tell
        if self.event.is_set():
            self._leave()

    def stepped(self) -> None:
        self._tell = None

    def __call__(self) -> None:
        self.event.set()
        self._leave()

    def _leave(self) -> None:
        if self._tell is not None:
            self._tell(TuneFinished("", 0, 0, "asked", time.monotonic() - self._began, time.process_time()))
            os._exit(0)


def main() -> None:
    """Run one job and say what came of it."""
    asked = _Asked()
    line, tell = connect(asked)
    order = msgspec.json.decode(line, type=_Order)
    speak_in_flags(order.in_flags)
    yield_to_others(order.job.nice)
    tell(_Listening())
    asked.begin(tell)

    def tell_steps(event: TuneEvent) -> None:
        if isinstance(event, TuneProgress):
            asked.stepped()
        tell(event)

    try:
        tune_here(order.job, tell_steps, asked.event)
    except MemoryError:
        hint = f"use a smaller {option('batch')} or {option('length')}"
        tell(Failed.of(BackendError("not enough memory to tune", hint=hint)))
    except EdgeLLMError as error:
        tell(Failed.of(error))
    except OSError:
        raise
    except Exception as error:  # of the tuner, in all likelihood; the line tells
        tell(
            Failed.of(
                BackendError(
                    f"the {order.job.tuner} tuner failed: {told(error)}",
                    hint=hint_for(order.job.tuner, "register_tuners"),
                )
            )
        )


def tune_here(job: TuneJob, tell: Tell, asked: threading.Event) -> None:
    """What the process of its own does: `tune_apart` is for everybody else."""
    folder = Path(job.folder)
    rows = packed.read(folder / ROWS)
    held_out = packed.read(folder / HELD_OUT) if (folder / HELD_OUT).exists() else None
    trainer = asked_tuner(plugins().tuners()[job.tuner]).open(job.base, job.settings)
    try:
        origin = CheckpointOrigin(job.machine, trainer.build, job.settings.n_threads, job.settings.device)
        checkpoints = Checkpoints(folder, key_of(job, rows, held_out), origin)
        course = Course(job.settings, rows, held_out, checkpoints, folder, _spelling(job.base))
        train(course, trainer, tell, goes_on=lambda: not asked.is_set())
    finally:
        trainer.close()


def _spelling(base: Artifact) -> Spell | None:
    """None where the vocabulary is of a kind that only the backend knows: nothing depends on sample answers."""
    try:
        return read_vocabulary(read_header(base.path)).spelled
    except EdgeLLMError:
        return None


if __name__ == "__main__":
    main()
