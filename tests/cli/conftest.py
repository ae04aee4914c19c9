"""`edgellm` with one light backend that opens GGUF files and nothing else installed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import fake_plugins

from edgellm.cli.main import main
from edgellm.contract.manager import Plugins

PLANNER = f"""{fake_plugins.LIGHT_BACKEND}
@hookimpl
def register_backends(register):
    register(Light())
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def planner_home(tmp_path_factory: pytest.TempPathFactory, knowing: Callable[[Path], Path]) -> Path:
    """One folder for the plugin and the caches of all runs. Nothing is ever stored."""
    folder = knowing(tmp_path_factory.mktemp("planner"))
    return fake_plugins.install(folder, "planner", PLANNER)


@pytest.fixture
def planner_process(tmp_path: Path, planner_home: Path) -> Run:
    """Runs `python -m edgellm` where the only plugin besides echo is a backend that can be planned for."""

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        return fake_plugins.run_edgellm(planner_home, "planner", tmp_path, *arguments, code=code, **environment)

    return run


@pytest.fixture
def planner(
    tmp_path: Path, planner_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The same in this process, which starts in no time."""
    light: dict[str, Any] = {}
    exec(fake_plugins.LIGHT_BACKEND, light)
    monkeypatch.setattr(Plugins, "backends", lambda self: {"gguf": light["Light"]()})
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name, value in ({"EDGELLM_HOME": str(planner_home), "COLUMNS": "120"} | environment).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main(arguments)
        output = capsys.readouterr()
        assert end.value.code == code, output.err
        return subprocess.CompletedProcess(arguments, code, output.out, output.err)

    return run
