"""A pytest plugin for llama.cpp's server tests: local models instead of downloads, and what became of each test.

It runs in their environment, which has no EdgeLLM. LLAMA_TESTS_MODELS is the folder of models.py's,
LLAMA_TESTS_OUTCOMES the file that outcomes are added to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_server.groups import Groups

# Which model of ours stands for which of theirs.
MODELS = {
    "ggml-org/test-model-stories260K": "tiny",
    "ggml-org/test-model-stories260K-infill": "tiny",
    "bert-bge-small/ggml-model-f16.gguf": "sentence-model",
    "jina-reranker-v1-tiny-en/ggml-model-f16.gguf": "cross-encoder",
}
START_S = 180  # for a machine that has more to do
# Tests that count what a server did since its start. To the others one that runs already is as good.
FRESH = ("test_metrics.py", "cache", "test_return_progress", "slots")


class Outcomes:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix("unit/")
        if report.when == "call" or not report.passed:
            self._told[name] = [report.outcome, _reason(report)]
            self._path.write_text(json.dumps(self._told, indent=1, sort_keys=True))


class Starter:
    """Starts servers, of which the last stays for tests that ask for the same."""

    def __init__(self, start: Callable[..., None], instances: set[Any]) -> None:
        self._start = start
        self._instances = instances
        self._asked: dict[str, Any] = {}
        self._process: Any = None

    def start(self, server: Any) -> None:
        if server.model_file is None:
            name = server.model_hf_file or server.model_hf_repo
            if name not in MODELS:
                pytest.skip(f"needs {name}")
            server.model_file = f"{os.environ['LLAMA_TESTS_MODELS']}/{MODELS[name]}.gguf"
            server.model_hf_repo = server.model_hf_file = None
        server.n_threads = 1
        asked = {name: value for name, value in vars(server).items() if name not in ("process", "ready", "_log")}
        fresh = any(part in os.environ["PYTEST_CURRENT_TEST"] for part in FRESH)
        if fresh or asked != self._asked or self._process is None or self._process.poll() is not None:
            self.stop()
            self._start(server, START_S)
            self._process, self._asked = server.process, asked
            self._instances.discard(server)
            server.process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def pytest_sessionfinish(self) -> None:
        self.stop()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes(Path(os.environ["LLAMA_TESTS_OUTCOMES"])))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import utils

    utils.ServerPreset.load_all = staticmethod(lambda: None)
    starter = Starter(utils.ServerProcess.start, utils.server_instances)
    utils.ServerProcess.start = lambda server, timeout_seconds=0: starter.start(server)
    config.pluginmanager.register(starter)
    groups = Groups.read()
    counted = [item for item in items if groups.counts(item.nodeid.removeprefix("unit/"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in counted])
    items[:] = counted


def _reason(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else "")
    return " ".join(text.split())[:300]
