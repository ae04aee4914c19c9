"""Tuning in a process of its own: what it tells, how it is ended, and that whatever ends it loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from support import toy_trainer, toy_tuner
from support.refusals import refuses
from support.waiting import wait_until

import edgellm
from edgellm.adaptation import packed
from edgellm.adaptation.checkpoint import CheckpointOrigin, Checkpoints, TuneKey
from edgellm.adaptation.loop import FACTORS, Course, train
from edgellm.adaptation.worker import HELD_OUT, LOCK, ROWS, TuneJob, TuneStop, tune_apart
from edgellm.errors import BackendError, DiskFull, EdgeLLMError, UsageError, WorkerCrashed
from edgellm.files import locked
from edgellm.types.model import Artifact
from edgellm.types.tuning import TuneEvaluation, TuneEvent, TuneFinished, TuneProgress, TuneSettings, TuneStarted

SETTINGS = TuneSettings(batch=4, epochs=2, learning_rate=0.5, length=16, seed=3, eval_every=7, checkpoint_every=5)
LONG = msgspec.structs.replace(SETTINGS, epochs=1000)
BASE = Artifact("gguf", ("toy.gguf",), "toy", "F32", 0)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TuneJob]:
    toy_tuner.install(tmp_path, monkeypatch)

    def make(fate: str = "", *, settings: TuneSettings = SETTINGS) -> TuneJob:
        monkeypatch.setenv("TOY", fate)
        place = tmp_path / "job"
        place.mkdir(exist_ok=True)
        packed.write(place / ROWS, toy_trainer.rows(120))
        packed.write(place / HELD_OUT, toy_trainer.rows(20, seed=9))
        return TuneJob("toy", BASE, "base", settings, os.fspath(place), "this machine", nice=0)

    return make


def test_its_processes_run_the_code_of_these_tests(job: Callable[..., TuneJob], tmp_path: Path) -> None:
    """And no other that is installed."""
    code = "import edgellm; print(edgellm.__file__)"
    ran = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == edgellm.__file__


def events_of(job: TuneJob, stop: TuneStop | None = None) -> list[TuneEvent]:
    return list(tune_apart(job, stop or TuneStop()))


def whole(folder: Path) -> bytes:
    """The factors of a run that nothing ended, in this process."""
    rows, held_out = toy_trainer.rows(120), toy_trainer.rows(20, seed=9)
    key = TuneKey("base", rows.sha256, held_out.sha256, SETTINGS, "toy")
    checkpoints = Checkpoints(folder, key, CheckpointOrigin("this machine", "toy 1", 1))
    train(Course(SETTINGS, rows, held_out, checkpoints, folder), toy_trainer.ToyTrainer(SETTINGS), lambda _: None)
    return (folder / FACTORS).read_bytes()


def test_it_tells_what_it_does(job: Callable[..., TuneJob]) -> None:
    started, *events, finished = events_of(job())

    assert isinstance(started, TuneStarted)
    assert {type(event) for event in events} == {TuneProgress, TuneEvaluation}
    assert isinstance(finished, TuneFinished)
    assert finished.end == "complete"
    assert Path(finished.path).is_file()


def test_whoever_asks_it_to_end_finds_a_checkpoint(job: Callable[..., TuneJob]) -> None:
    stop, events = TuneStop(), []
    for event in tune_apart(job(settings=LONG), stop):
        events.append(event)
        if isinstance(event, TuneProgress):
            stop.ask()
    finished = events[-1]

    assert finished.end == "asked"
    assert finished.n_steps < events[0].n_steps
    stop = TuneStop()
    for event in tune_apart(job(settings=LONG), stop):
        assert not isinstance(event, TuneStarted) or event.first_step == finished.n_steps
        stop.ask()


def test_asked_before_it_began(job: Callable[..., TuneJob]) -> None:
    stop = TuneStop()
    stop.ask()

    assert events_of(job(settings=LONG), stop)[-1].end == "asked"


def test_a_stop_is_heard_while_the_model_is_loaded(job: Callable[..., TuneJob], tmp_path: Path) -> None:
    stop, loading = TuneStop(), tmp_path / "loading"
    asking = threading.Thread(target=lambda: (wait_until(loading.exists), stop.ask()))
    asking.start()

    [finished] = events_of(job(f"loads:{loading}"), stop)
    asking.join()

    assert (finished.end, finished.n_steps) == ("asked", 0)
    assert events_of(job())[-1].end == "complete"


def test_nobody_listens_any_more(job: Callable[..., TuneJob]) -> None:
    events = tune_apart(job(settings=LONG), TuneStop())
    steps = [event.step for event, _ in zip(events, range(9), strict=False) if isinstance(event, TuneProgress)]
    events.close()
    again = tune_apart(job(settings=LONG), TuneStop())

    assert next(again).first_step >= steps[-1]
    again.close()


@pytest.mark.parametrize(
    ("fate", "error", "attributes"),
    [
        ("killed", WorkerCrashed, {"reason": "SIGKILL"}),
        pytest.param("exits", WorkerCrashed, {"reason": ""}, marks=pytest.mark.slow(2)),
        ("full", DiskFull, {}),
        ("diverges", BackendError, {}),
        pytest.param("memory", BackendError, {}, marks=pytest.mark.slow(2)),
    ],
)
def test_whatever_ends_it_the_next_goes_on_to_the_same_bytes(
    job: Callable[..., TuneJob], tmp_path: Path, fate: str, error: type[EdgeLLMError], attributes: dict[str, str]
) -> None:
    with refuses(error, **attributes):
        events_of(job(fate))
    again = job()
    events = events_of(again)

    assert events[0].first_step == 10
    assert events[0].exact
    assert (Path(again.folder) / FACTORS).read_bytes() == whole(tmp_path / "whole")


@pytest.mark.parametrize("fate", ["strange", "nothing"])
def test_a_trainer_that_breaks_its_contract_is_told_with_its_line(job: Callable[..., TuneJob], fate: str) -> None:
    with refuses(BackendError, varies=r"line \d+"):
        events_of(job(fate))


def test_a_disk_that_is_gone(job: Callable[..., TuneJob], tmp_path: Path) -> None:
    with refuses(UsageError):
        events_of(job(f"gone:{tmp_path / 'job'}"))


def test_a_folder_belongs_to_one_process(job: Callable[..., TuneJob]) -> None:
    with locked(Path(job().folder) / LOCK, lambda: None), refuses(UsageError, param="name"):
        events_of(job())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("nice", [19, 7])
def test_it_yields_to_others(job: Callable[..., TuneJob], nice: int) -> None:
    stop = TuneStop()
    for event in tune_apart(msgspec.structs.replace(job(settings=LONG), nice=nice), stop):
        if isinstance(event, TuneStarted):
            [worker] = [
                child for child in psutil.Process().children() if "edgellm.adaptation.worker" in child.cmdline()
            ]
            assert worker.nice() == nice
            assert int(Path(f"/proc/{worker.pid}/oom_score_adj").read_text()) >= 500
            stop.ask()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_it_leaves_with_whoever_started_it(job: Callable[..., TuneJob]) -> None:
    code = f"""
import sys
sys.path.insert(0, {os.fspath(Path(__file__).parents[1])!r})
import msgspec, psutil
from edgellm.adaptation.worker import TuneStop, TuneJob, tune_apart
job = msgspec.json.decode({msgspec.json.encode(job(settings=LONG))!r}, type=TuneJob)
for event in tune_apart(job, TuneStop()):
    print(*(child.pid for child in psutil.Process().children()), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline().split()[0])
        parent.kill()
    wait_until(lambda: not psutil.pid_exists(worker))
