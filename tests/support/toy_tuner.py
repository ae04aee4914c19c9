"""The toy of `support.toy_trainer` as a plugin, in a real worker. The variable TOY says what befalls it at step 12."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgellm.contract.backend import Advice
from edgellm.contract.hookspecs import hookimpl
from edgellm.contract.manager import plugins
from edgellm.contract.tuner import Arrays, Batch
from edgellm.errors import BackendError
from edgellm.types.gpu import Gpu
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact
from edgellm.types.tuning import METHODS, Method, TuneFootprint, TuneSettings, TuneSize
from support import fake_plugins
from support.loras import random_factors
from support.toy_trainer import VOCAB, ToyTrainer

STEP = 12


def install(folder: Path, patch: pytest.MonkeyPatch, *others: str) -> None:
    """From now on processes find the toy, and of the plugins that are installed only those others."""
    fake_plugins.declare(folder, "toy", "support.toy_tuner", "edgellm-toy")
    tests = os.fspath(Path(__file__).parents[1])
    patch.setenv("PYTHONPATH", os.pathsep.join([tests, os.fspath(folder), fake_plugins.ROOT]))
    patch.setenv("EDGELLM_PLUGINS", ",".join(("toy", *others)))


class FatedTrainer(ToyTrainer):
    """Of a real file, its factors are random ones."""

    def __init__(self, base: Artifact, settings: TuneSettings) -> None:
        self._rank, self._method = settings.rank, settings.method
        self._model = base.path if Path(base.path).exists() else ""
        super().__init__(settings, vocab=512 if self._model else VOCAB)

    def factors(self) -> Arrays:
        if not self._model:
            return super().factors()
        pairs = random_factors(self._model, rank=self._rank, size=0.3)
        if self._method == "full":
            return {name: b @ a for name, (a, b) in pairs.items()}
        factors = {f"{name}.lora_{end}": of[at] for name, of in pairs.items() for at, end in enumerate("ab")}
        lengths = {f"{name}.dora_m": np.ones(len(b), np.float32) for name, (_, b) in pairs.items()}
        return factors | (lengths if self._method == "dora" else {})

    def step(self, batches: Sequence[Batch], learning_rate: float) -> float:
        if len(self.rates) == STEP:
            befall(os.environ.get("TOY", ""))
        return super().step(batches, learning_rate)


def befall(fate: str) -> None:
    name, _, place = fate.partition(":")
    match name:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exits":
            os._exit(3)
        case "gone":  # a file of its name lies there now
            shutil.rmtree(place)
            Path(place).touch()
        case "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        case "diverges":
            raise BackendError("the loss is nan")
        case "memory":
            raise MemoryError
        case "strange":
            raise KeyError("z")


class ToyTuner:
    name = "toy"
    methods: frozenset[Method] = frozenset(METHODS)

    def missing(self) -> Advice | None:
        return None

    def lacks(self, kind: str) -> Advice | None:
        return None

    def supports(self, base: Artifact) -> list[str]:
        return []

    def footprint(self, base: Artifact, settings: TuneSettings, size: TuneSize) -> TuneFootprint:
        return TuneFootprint(*[1024**2] * 9, on_device=settings.device != "cpu")

    def rate(self, base: Artifact, settings: TuneSettings, machine: Machine) -> float:
        return 1000.0

    def rate_on(self, base: Artifact, settings: TuneSettings, gpu: Gpu | None) -> float:
        return 1000.0

    def open(self, base: Artifact, settings: TuneSettings) -> FatedTrainer | None:
        name, _, place = os.environ.get("TOY", "").partition(":")
        if name == "loads":  # for ever
            Path(place).touch()
            threading.Event().wait()
        if name == "nothing":
            return None
        return FatedTrainer(base, settings)


@hookimpl
def register_tuners(register):
    register(ToyTuner())


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_threads: None) -> ToyTuner:
    """The only tuner. The bases of its tunings load in threads, where a test does not ask for processes."""
    tuner = ToyTuner()
    monkeypatch.setattr(plugins(), "_tuners", {"toy": tuner})
    install(tmp_path, monkeypatch, "gguf")
    monkeypatch.setenv("TOY", "")
    return tuner
