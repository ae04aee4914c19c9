"""A tuning that was ended anywhere goes on to the same bytes; what cannot be gone on from is not taken."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support import toy_trainer
from support.refusals import refuses

from edgellm import files
from edgellm.adaptation.arrays import write_arrays
from edgellm.adaptation.checkpoint import CheckpointOrigin, Checkpoints, TuneKey
from edgellm.adaptation.loop import FACTORS, Course, train
from edgellm.contract.tuner import Batch
from edgellm.errors import BadArtifact, DiskFull
from edgellm.formats.safetensors.reader import read_safetensors
from edgellm.types.tuning import (
    TuneEvaluation,
    TuneEvent,
    TuneFinished,
    TuneProgress,
    TuneSettings,
    TuneStarted,
)

SETTINGS = TuneSettings(
    batch=4, accumulate=2, epochs=4, learning_rate=0.5, length=16, seed=3, eval_every=7, checkpoint_every=5
)
ORIGIN = CheckpointOrigin("this machine", "toy 1", 1)


class Killed(BaseException):
    pass


def course(
    folder: Path, settings: TuneSettings = SETTINGS, origin: CheckpointOrigin = ORIGIN, *, held_out: bool = True
) -> Course:
    rows, unseen = toy_trainer.rows(300), toy_trainer.rows(20, seed=9) if held_out else None
    key = TuneKey("base", rows.sha256, unseen.sha256 if unseen else "", settings, "toy")
    return Course(settings, rows, unseen, Checkpoints(folder, key, origin), folder)


def killed_after(n_events: int) -> Callable[[TuneEvent], None]:
    events: list[TuneEvent] = []

    def tell(event: TuneEvent) -> None:
        events.append(event)
        if len(events) == n_events:
            raise Killed

    return tell


def run(course: Course, **options: object) -> list[TuneEvent]:
    events: list[TuneEvent] = []
    train(course, toy_trainer.ToyTrainer(course.settings), events.append, **options)
    return events


def evaluations(events: list[TuneEvent]) -> list[TuneEvaluation]:
    return [event for event in events if isinstance(event, TuneEvaluation)]


def test_events_tell_what_was_learned(tmp_path: Path) -> None:
    events = run(course(tmp_path))
    steps = [event for event in events if isinstance(event, TuneProgress)]
    looks = evaluations(events)

    assert events[0] == TuneStarted(len(steps), 256, "toy 1")
    assert [step.step for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].loss < 0.5 < 2.5 < steps[0].loss
    assert steps[-1].left_s == 0
    assert steps[-1].n_tokens == 4 * toy_trainer.rows(300).size.n_tokens
    assert [look.step for look in looks] == [*range(0, len(steps), 7), *([len(steps)] if len(steps) % 7 else [])]
    assert looks[-1].loss < 0.5 < looks[0].loss
    assert isinstance(events[-1], TuneFinished)
    assert (events[-1].end, events[-1].n_steps) == ("complete", len(steps))


@pytest.mark.parametrize("n_events", [1, 2, 3, 9, 10, 17, 40])
def test_it_goes_on_to_the_same_bytes(tmp_path: Path, n_events: int) -> None:
    whole = evaluations(run(course(tmp_path / "whole")))
    for _ in range(2):  # and once more
        with pytest.raises(Killed):
            train(course(tmp_path), toy_trainer.ToyTrainer(SETTINGS), killed_after(n_events))
    events = run(course(tmp_path))

    assert (tmp_path / FACTORS).read_bytes() == (tmp_path / "whole" / FACTORS).read_bytes()
    assert events[0].exact
    assert events[0].first_step <= 2 * n_events
    assert evaluations(events) == whole[len(whole) - len(evaluations(events)) :]


class BusyTrainer(toy_trainer.ToyTrainer):
    """On a machine where a step takes 25 seconds, whatever was predicted; it is a clock, too."""

    seconds = 0.0

    def step(self, batches: Sequence[Batch], learning_rate: float) -> float:
        self.seconds += 25
        return super().step(batches, learning_rate)

    def clock(self) -> float:
        return self.seconds


def test_a_busy_machine_loses_no_more_than_a_minute(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, checkpoint_every=10_000)
    trainer = BusyTrainer(settings)
    with pytest.raises(Killed):
        train(course(tmp_path, settings, held_out=False), trainer, killed_after(1 + 11), clock=trainer.clock)

    steps = sorted(int(place.stem.rpartition("-")[2]) for place in tmp_path.glob("*.npz"))
    assert steps == [6, 9], "of 10 steps that were saved"


def test_when_it_is_saved_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, checkpoint_every=10_000)
    busy = BusyTrainer(settings)
    with pytest.raises(Killed):
        train(course(tmp_path, settings), busy, killed_after(17), clock=busy.clock)
    events = run(course(tmp_path, settings))
    whole = run(course(tmp_path / "whole"))

    assert events[0].first_step == 13, "a minute after the checkpoint of the best look, of step 7, and again"
    assert (tmp_path / FACTORS).read_bytes() == (tmp_path / "whole" / FACTORS).read_bytes()
    assert evaluations(events) == evaluations(whole)[2:]


WORKER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from adaptation.test_loop import SETTINGS, course
from support.toy_trainer import ToyTrainer
from edgellm.adaptation import arrays
from edgellm.adaptation.loop import train

n_left = int(sys.argv[3])

def dies(*_):
    global n_left
    n_left -= 1
    if not n_left:
        os.kill(os.getpid(), signal.SIGKILL)

class Writer:  # a file that its process does not finish
    def __init__(self, file): self.file = file
    def write(self, data):
        dies()
        return self.file.write(data)
    def __getattr__(self, name): return getattr(self.file, name)

save = arrays.np.savez
arrays.np.savez = lambda file, **named: save(Writer(file), **named)
train(course(Path(sys.argv[2])), ToyTrainer(SETTINGS), dies if sys.argv[4] == "anywhere" else lambda event: None)
"""


def killed(folder: Path, n_moments: int, where: str) -> None:
    """In a process of its own, which is killed in the middle of a checkpoint, or also at an event."""
    tests = os.fspath(Path(__file__).parents[1])
    command = [sys.executable, "-c", WORKER, tests, os.fspath(folder), str(n_moments), where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_process_leaves_what_the_next_goes_on_from(tmp_path: Path) -> None:
    run(course(tmp_path / "whole"))
    killed(tmp_path, 100, "writing")
    assert list(tmp_path.glob(".*.part"))
    events = run(course(tmp_path))

    assert (tmp_path / FACTORS).read_bytes() == (tmp_path / "whole" / FACTORS).read_bytes()
    assert events[0].first_step
    assert events[0].exact
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.slow(30)
def test_a_process_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    run(course(tmp_path / "whole"))
    moments = np.random.Generator(np.random.PCG64(14)).integers(1, 600, 20)
    for at, n_moments in enumerate(map(int, moments)):
        folder = tmp_path / str(at)
        folder.mkdir()
        killed(folder, n_moments, "anywhere")
        run(course(folder))
        assert (folder / FACTORS).read_bytes() == (tmp_path / "whole" / FACTORS).read_bytes(), n_moments


def test_elsewhere_it_goes_on_and_says_that_bits_may_differ(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(course(tmp_path), toy_trainer.ToyTrainer(SETTINGS), killed_after(12))
    elsewhere = course(tmp_path, origin=CheckpointOrigin("this machine", "toy 1", 2))
    with pytest.raises(Killed):
        train(elsewhere, toy_trainer.ToyTrainer(SETTINGS), killed_after(12))
    events = run(course(tmp_path))

    assert events[0].first_step > 12
    assert not events[0].exact, "some steps were made elsewhere"


def test_checkpoints_of_another_job_are_left_alone(tmp_path: Path) -> None:
    run(course(tmp_path))
    kept = {*tmp_path.glob("*.npz")}
    events = run(course(tmp_path, msgspec.structs.replace(SETTINGS, seed=4)))

    assert events[0].first_step == 0
    assert kept < {*tmp_path.glob("*.npz")}
    assert len(kept) <= 3


def test_threads_are_no_other_job(tmp_path: Path) -> None:
    run(course(tmp_path))
    events = run(course(tmp_path, msgspec.structs.replace(SETTINGS, n_threads=2)))

    assert events[0].first_step == events[0].n_steps


@pytest.mark.parametrize("damage", ["a bit", "a header", "a text", "a nest"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(tmp_path: Path, damage: str) -> None:
    with pytest.raises(Killed):
        train(course(tmp_path), toy_trainer.ToyTrainer(SETTINGS), killed_after(20))
    *_, older, newest = sorted(tmp_path.glob("*.npz"))
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 255
    newest.write_bytes(raw)
    if damage == "a header":
        with zipfile.ZipFile(newest, "w") as file:
            file.writestr("meta.npy", b"\x93NUMPY\x01\x00\x01\x00(")
    if damage in ("a text", "a nest"):
        content = b'{"step": "\xec"}' if damage == "a text" else b'{"x":' + b"[" * 100_000
        write_arrays(newest, {"meta": np.frombuffer(content, np.uint8)})
    events = run(course(tmp_path))
    run(course(tmp_path / "whole"))

    assert events[0].first_step == int(older.stem.rpartition("-")[2])
    assert newest.name in events[0].damaged[0]
    assert (tmp_path / FACTORS).read_bytes() == (tmp_path / "whole" / FACTORS).read_bytes()


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(course(tmp_path), toy_trainer.ToyTrainer(SETTINGS), killed_after(20))
    trainer = toy_trainer.ToyTrainer(SETTINGS)
    trainer.table = np.zeros((3, 3), np.float32)

    with refuses(BadArtifact):
        train(course(tmp_path), trainer, lambda event: None)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Killed):
        train(course(tmp_path), toy_trainer.ToyTrainer(SETTINGS), killed_after(20))
    before = {place: place.read_bytes() for place in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with refuses(DiskFull, varies="[0-9a-f]{16}"):
            run(course(tmp_path))

    assert {place: place.read_bytes() for place in tmp_path.iterdir()} == before
    assert run(course(tmp_path))[0].first_step


def test_without_held_out_rows_the_last_step_counts(tmp_path: Path) -> None:
    events = run(course(tmp_path, held_out=False))
    trainer = toy_trainer.ToyTrainer(SETTINGS)
    train(course(tmp_path, held_out=False), trainer, lambda event: None)

    assert events[-1].step == events[-1].n_steps == events[0].n_steps
    assert read_safetensors(os.fspath(tmp_path / FACTORS)).raw("table") == trainer.table.tobytes()


def test_the_factors_are_of_the_best_step_and_it_ends_early(tmp_path: Path) -> None:
    """What is held out is the contrary of what is learned."""
    settings = msgspec.structs.replace(SETTINGS, patience=2)
    backwards = replace(toy_trainer.rows(20, seed=9), tokens=toy_trainer.rows(20, seed=9).tokens[::-1].copy())
    tables: dict[int, bytes] = {}

    class Remembering(toy_trainer.ToyTrainer):
        def loss(self, batch: Batch) -> float:
            tables[len(self.rates)] = self.table.tobytes()
            return super().loss(batch)

    events: list[TuneEvent] = []
    train(replace(course(tmp_path, settings), held_out=backwards), Remembering(settings), events.append)
    finished = events[-1]

    assert finished.end == "no_gain"
    assert finished.n_steps == finished.step + 14 < events[0].n_steps
    assert [look.step for look in evaluations(events) if look.is_best][-1] == finished.step
    assert read_safetensors(os.fspath(tmp_path / FACTORS)).raw("table") == tables[finished.step]


def test_whoever_asks_for_an_end_gets_what_there_is(tmp_path: Path) -> None:
    answers = iter([True] * 4 + [False])
    events = run(course(tmp_path), goes_on=lambda: next(answers))

    assert (events[-1].end, events[-1].n_steps, events[-1].step) == ("asked", 5, 5)
    assert evaluations(events)[-1].step == 5
    assert run(course(tmp_path))[0].first_step == 5


def test_what_was_begun_before_there_were_devices_is_gone_on_from() -> None:
    """The hash that names a checkpoint's file, as it was taken down then; and where one was made."""
    key = TuneKey("a", "b", "c", TuneSettings(rank=5, n_threads=3), "torch")
    moved = msgspec.structs.replace(key, settings=TuneSettings(rank=5, n_threads=1, device="cuda:0"))
    origin = CheckpointOrigin("here", "a build", 2)

    assert key.sha256 == moved.sha256 == "d35da69784f92b9fc522e8d0b4af6b60ab3d3d592c3dab35b0bcbd99788a665f"
    assert msgspec.json.decode(b'{"machine":"here","build":"a build","n_threads":2}', type=CheckpointOrigin) == origin
    assert CheckpointOrigin("here", "a build", 2, "cuda:0") != origin
