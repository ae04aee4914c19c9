"""A toy for a tuner, as the only one that there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import toy_tuner

from edgellm.contract.manager import plugins


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_threads: None) -> toy_tuner.ToyTuner:
    """Bases of its tunings load in threads, where a test does not ask for processes."""
    tuner = toy_tuner.ToyTuner()
    monkeypatch.setattr(plugins(), "_tuners", {"toy": tuner})
    toy_tuner.install(tmp_path, monkeypatch, "gguf")
    monkeypatch.setenv("TOY", "")
    return tuner
