"""Layers of a real model are tuned, and what happens to the process costs no bit of what comes of it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from support.first_layers import first_layers
from support.refusals import refuses

from edgellm.adaptation import packed
from edgellm.adaptation.example import Example
from edgellm.adaptation.loop import FACTORS
from edgellm.adaptation.packing import pack
from edgellm.adaptation.worker import HELD_OUT, ROWS, TuneJob, TuneStop, tune_apart
from edgellm.errors import WorkerCrashed
from edgellm.types.model import Artifact
from edgellm.types.tuning import TuneFinished, TuneProgress, TuneSettings, TuneStarted

pytestmark = [pytest.mark.model, pytest.mark.timeout(3000)]
N_STEPS, MOMENTS = 60, 20
SETTINGS = TuneSettings(
    "lora+", batch=2, epochs=9, max_steps=N_STEPS, length=40, learning_rate=1e-3, eval_every=13, checkpoint_every=3
)


@pytest.fixture
def path(smollm2: str, tmp_path: Path) -> Path:
    return first_layers(tmp_path / "m.gguf", smollm2, 2)


def job(folder: Path, path: Path, machine: str = "here", **settings: int) -> TuneJob:
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(4)
        for name, count in ((ROWS, 120), (HELD_OUT, 10)):
            lengths = rng.integers(5, 20, count)
            examples = [Example(rng.integers(0, 49152, n).astype(np.int32), np.arange(n) > 2) for n in lengths]
            packed.write(folder / name, pack(examples, 40))
    chosen = msgspec.structs.replace(SETTINGS, **settings)
    return TuneJob(
        "torch", Artifact("gguf", (os.fspath(path),), "m"), "base", chosen, os.fspath(folder), machine, nice=0
    )


def killed(order: TuneJob, moment: float) -> Iterator[TuneStarted]:
    """Runs it until it is killed, at `moment` in steps: 7.3 is within the step behind the seventh. How it began."""
    before, is_set = time.monotonic(), False
    for event in tune_apart(order, TuneStop()):
        if isinstance(event, TuneStarted):
            yield event
        took, before = time.monotonic() - before, time.monotonic()
        if isinstance(event, TuneProgress) and event.step >= int(moment) and not is_set:
            is_set = True
            for child in psutil.Process().children():
                threading.Timer(moment % 1 * took, _kill, [child]).start()


def _kill(child: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # the first child to die took it along
        child.kill()


@pytest.mark.slow(100)
def test_killed_at_20_random_moments_it_ends_with_the_same_file(path: Path, tmp_path: Path) -> None:
    whole = list(tune_apart(job(tmp_path / "whole", path), TuneStop()))
    assert isinstance(whole[-1], TuneFinished)
    assert whole[-1].n_steps == N_STEPS

    order, begun = job(tmp_path / "killed", path), []
    for moment in sorted(np.random.default_rng(5).uniform(1, N_STEPS - 5, MOMENTS)):
        with refuses(WorkerCrashed, reason="SIGKILL"):
            begun += killed(order, moment)
    *_, last = events = list(tune_apart(order, TuneStop()))

    assert [event.exact for event in begun] == [True] * MOMENTS
    assert len({event.first_step for event in begun}) > MOMENTS // 2
    assert events[0].exact
    assert events[0].first_step > 0
    assert last.step == whole[-1].step
    assert (tmp_path / "killed" / FACTORS).read_bytes() == (tmp_path / "whole" / FACTORS).read_bytes()


@pytest.mark.slow(15)
@pytest.mark.parametrize("elsewhere", ["machine", "threads", "kernels"])
def test_elsewhere_it_goes_on_and_says_that_bits_may_differ(
    elsewhere: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = job(tmp_path / "job", path, max_steps=12)
    with refuses(WorkerCrashed, reason="SIGKILL"):
        list(killed(order, 6.0))

    if elsewhere == "machine":
        there = msgspec.structs.replace(order, machine="there")
    elif elsewhere == "threads":
        there = msgspec.structs.replace(order, settings=msgspec.structs.replace(order.settings, n_threads=2))
    else:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
        there = order
    started, *_, finished = tune_apart(there, TuneStop())

    assert isinstance(started, TuneStarted)
    assert isinstance(finished, TuneFinished)
    assert not started.exact
    assert 3 <= started.first_step <= 7
    assert finished.n_steps == 12
