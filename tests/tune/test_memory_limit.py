"""Jobs on a real model in a control group that gives them what was predicted, and no more."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.exactness import artifact

from edgellm.adaptation import packed, rules
from edgellm.adaptation.example import Example
from edgellm.adaptation.packing import pack
from edgellm.adaptation.worker import ROWS, TuneJob
from edgellm.contract.manager import plugins
from edgellm.types.tuning import TuneFinished, TuneSettings
from edgellm.units import MIB

pytestmark = [pytest.mark.cgroup, pytest.mark.timeout(1500)]
SETTINGS = TuneSettings(method="lora+", length=256, batch=4, max_steps=2)

# Imports come first: the worker alone is what is tested.
CHILD = """
import os, sys
import msgspec
from edgellm.adaptation.worker import TuneJob, TuneStop, tune_apart
from edgellm.errors import WorkerCrashed

with open(f"{sys.argv[1]}/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
try:
    *_, last = tune_apart(msgspec.json.decode(sys.argv[2], type=TuneJob), TuneStop())
    print(msgspec.json.encode(last).decode())
except WorkerCrashed as crashed:
    print(crashed.reason)
"""


@pytest.fixture
def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(200, 257, 8)
    return [Example(rng.integers(0, 49_000, n).astype(np.int32), np.arange(n) > n // 2) for n in lengths]


@pytest.fixture
def tune_within(
    smollm2: str, examples: list[Example], make_group: Callable[..., Path], tmp_path: Path
) -> Callable[..., str]:
    """Runs a job with so many bytes, and tells how it ended."""

    def run(settings: TuneSettings, n_bytes: int) -> str:
        group = make_group("memory", v1__memory__limit_in_bytes=f"{n_bytes}\n", v2__memory__max=f"{n_bytes}\n")
        packed.write(tmp_path / ROWS, pack([example.cut(settings.length) for example in examples], settings.length))
        job = TuneJob("torch", artifact(smollm2), "smollm2", settings, str(tmp_path), "here", nice=0)
        command = [sys.executable, "-c", CHILD, str(group), msgspec.json.encode(job).decode()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True)
        return done.stdout.strip()

    return run


def footprint_of(path: str) -> Callable[..., int]:
    tuner = plugins().tuners()["torch"]
    return functools.partial(tuner.footprint, artifact(path))


@pytest.mark.slow(20)
def test_a_job_finishes_in_the_memory_that_was_predicted_for_it(smollm2, examples, tune_within) -> None:
    needed = footprint_of(smollm2)(SETTINGS, pack(examples, SETTINGS.length).size).needed_bytes

    assert msgspec.json.decode(tune_within(SETTINGS, needed), type=TuneFinished).n_steps == SETTINGS.max_steps


@pytest.mark.slow(5)
def test_much_less_memory_is_not_enough(smollm2, examples, tune_within) -> None:
    needed = footprint_of(smollm2)(SETTINGS, pack(examples, SETTINGS.length).size).needed_bytes

    assert tune_within(SETTINGS, int(0.7 * needed)) == "SIGKILL"


@pytest.mark.slow(20)
def test_what_is_advised_where_nothing_fits_does_fit(smollm2, examples, tune_within) -> None:
    budget, asked = 450 * MIB, {"batch": 8, "length": 256, "max_steps": 1}
    formulas = rules.TunerFormulas(footprint_of(smollm2), lambda settings: 100.0)

    refused = rules.decide(rules.TuneQuestion(examples, budget, 8192, asked=asked), formulas)

    assert not refused.fits
    assert refused.instead is not None
    assert refused.instead.batch < 8 or refused.instead.length < 256
    assert msgspec.json.decode(tune_within(refused.instead, budget), type=TuneFinished).n_steps == 1
