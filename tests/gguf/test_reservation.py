"""What the library says it would reserve, before a load: here on the processor; on a GPU, test_device_reservation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from edgellm_gguf import library, reservation
from edgellm_gguf.plugin import GgufBackend
from support.memory_kinds import sparse
from support.refusals import refuses
from support.tiny_models import MODELS, with_weights

from edgellm.catalog.identify import identify
from edgellm.errors import BackendUnavailable
from edgellm.hardware.probe import probe
from edgellm.runtime.supervisor import WorkerSession
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.units import MIB

RUN = Settings(512, n_slots=2, n_threads=2, n_threads_batch=2)


@pytest.fixture
def tiny(tmp_path: Path) -> Artifact:
    if library.missing() or library.verdict(probe()).problem:
        pytest.skip("cpu: libllama does not run here")
    return identify(with_weights(MODELS["qwen3"].gguf(), tmp_path / "tiny.gguf"))


def test_what_is_told_is_what_a_load_reserves(tiny: Artifact) -> None:
    told = GgufBackend().scratch(tiny, RUN)
    session = WorkerSession(LaunchPlan("gguf", tiny, RUN))
    try:
        buffers = session.info.details["buffers"]
    finally:
        session.close()
    assert f"CPU compute buffer size = {told['CPU'] / MIB:8.2f} MiB" in buffers


def test_it_is_asked_once_for_a_file_and_its_settings(tiny: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def ask(question: bytes) -> reservation.Reservation:
        asked.append(question)
        return reservation.Reservation({"CPU": len(asked)})

    monkeypatch.setattr(reservation, "_asked", ask)
    for run in (RUN, replace(RUN, n_threads=1)):  # threads change nothing
        assert reservation.scratch(tiny, run) == {"CPU": 1}
    assert reservation.scratch(tiny, replace(RUN, n_ctx=1024)) == {"CPU": 2}
    Path(tiny.path).touch()
    assert reservation.scratch(tiny, RUN) == {"CPU": 3}
    assert len(asked) == 3


def test_a_file_that_would_not_be_loaded_is_not_shown_to_native_code(tmp_path: Path) -> None:
    """It has no tokenizer: this code says so, and not the library."""
    with refuses(BackendUnavailable):
        GgufBackend().scratch(identify(str(sparse("qwen3", tmp_path / "model.gguf"))), RUN)
