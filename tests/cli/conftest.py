"""`edgellm` as a whole process, with one light backend that opens GGUF files and nothing else installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_plugins
import pytest

PLANNER = """
from edgellm.hookspecs import hookimpl

class Planner:
    name = "gguf"
    formats = frozenset({"gguf"})
    quants = None
    def check(self, machine): return []
    def supports(self, artifact): return []
    def footprint(self, artifact, settings): return None
    def open(self, plan): raise NotImplementedError("plans only")
    def describe(self): return {"library": "none"}

@hookimpl
def register_backends(register):
    register(Planner())
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def planner_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the plugin and the caches of all runs: the bandwidth is measured once. Nothing is ever stored."""
    folder = tmp_path_factory.mktemp("planner")
    return fake_plugins.install(folder, "planner", PLANNER)


@pytest.fixture
def planner(tmp_path: Path, planner_home: Path) -> Run:
    """Runs `python -m edgellm` where the only plugin besides echo is a backend that can be planned for."""

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {
            "PYTHONPATH": str(planner_home), "EDGELLM_HOME": str(planner_home), "EDGELLM_PLUGINS": "planner",
            "COLUMNS": "120",
        } | environment  # fmt: skip
        command = [sys.executable, "-m", "edgellm", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == code, done.stderr
        return done

    return run
