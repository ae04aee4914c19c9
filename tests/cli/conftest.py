"""`edgellm` as a whole process, with one light backend that opens GGUF files and nothing else installed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import fake_plugins

PLANNER = f"""{fake_plugins.LIGHT_BACKEND}
@hookimpl
def register_backends(register):
    register(Light())
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
        return fake_plugins.run_edgellm(planner_home, "planner", tmp_path, *arguments, code=code, **environment)

    return run
