"""`edgellm doctor` finds what is broken, says what mends it, and never breaks itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attacks.gguf import hostile_adapters
from click.testing import CliRunner
from support import fake_plugins
from support.read_only import run_read_only

import edgellm.contract.manager
from edgellm.app.tune import jobs
from edgellm.builtin.echo import EchoBackend
from edgellm.cli import doctor
from edgellm.cli.main import cli
from edgellm.cli.report import LIBRARIES, Report, render
from edgellm.contract.manager import Plugins
from edgellm.store.adapters import AdapterOrigin, AdapterStore
from edgellm.text import grammar_library
from edgellm.text.grammar_library import GrammarLibrary
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator, Cpu, Limits, Machine, Memory

GIB = 1024**3
MACHINE = Machine("test", "a test machine", Cpu("x86_64", cores=8), Memory(16 * GIB, 12 * GIB))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, knowing: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_HOME", str(knowing(tmp_path / "home")))
    monkeypatch.setattr(doctor.sys, "prefix", str(tmp_path))
    monkeypatch.delenv("EDGELLM_OFFLINE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def with_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loads plugins from tmp_path and makes them this process's."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(**sources: str) -> None:
        for name, source in sources.items():
            fake_plugins.install(tmp_path, name, source)
        host = Plugins(frozenset(sources))
        monkeypatch.setattr(edgellm.contract.manager, "plugins", lambda: host)

    return load


def examine(monkeypatch: pytest.MonkeyPatch, machine: Machine = MACHINE) -> dict[str, Any]:
    monkeypatch.setattr(doctor, "_probe", lambda: machine)
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def texts(report: dict[str, Any], level: str) -> list[str]:
    return [f"{row['text']} | {row['fix']}" for row in report["findings"] if row["level"] == level]


ROW = """
[[models]]
id = "house-model"
family = "llama"
kind = "chat"
license = "mit"
ctx_train = 8192
params = 1000
params_active = 1000
files = [
    {source = "file:/no/house.gguf", quant = "Q5_K_M"},
    {source = "foo://house", quant = "Q4_0"},
    {source = "hf://a/b:Q8_0", quant = "Q8_0"},
]
[models.shape]
arch = "llama"
n_layer = 1
n_embd = 64
n_ff = 64
n_head = 1
n_head_kv = 1
head_dim = 64
n_vocab = 100
tied_embeddings = true
kv_full_bytes = 256
"""


def test_rows_of_ones_own_that_name_what_is_not_there_are_problems_with_their_lines(monkeypatch, home: Path) -> None:
    file = home / "config" / "models.toml"
    file.parent.mkdir(parents=True)
    file.write_text(ROW)
    own = [text for text in texts(examine(monkeypatch), "problem") if str(file) in text]

    begin = f"{file}: line 2, house-model: files"
    assert [text.partition(" | ")[0] for text in own] == [
        f"{begin}[0].source: there is no file /no/house.gguf",
        f"{begin}[1].source: no source has the scheme 'foo'; there are file, hf, http, https, ollama, pypi",
    ]


ROWS = """
from edgellm.contract.hookspecs import hookimpl
from edgellm.types.model import ModelCard, ModelFile

@hookimpl
def register_models(register):
    file = ModelFile("file:/no/house.gguf", "Q8_0")
    register(ModelCard("their-house", "llama", "chat", "mit", 8192, 10**9, 10**9, None, (file,)))
"""


def test_rows_of_a_plugin_that_name_what_is_not_there_are_problems_of_it(monkeypatch, with_plugins) -> None:
    with_plugins(house=ROWS)
    monkeypatch.setattr("edgellm.app.context.plugins", edgellm.contract.manager.plugins)
    (told,) = (text for text in texts(examine(monkeypatch), "problem") if "house" in text)

    row = "plugin house (edgellm-house 1.0): row their-house: files[0].source: there is no file /no/house.gguf"
    assert told == f"{row} | its author mends the row: until then this file of the model is not chosen"


@pytest.mark.parametrize("text", ["x = [", "[[models]]\nid = 7\n", "[[model]]\n"])
def test_a_damaged_file_of_models_is_a_problem(monkeypatch, home: Path, text: str) -> None:
    file = home / "config" / "models.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)

    (told,) = (text for text in texts(examine(monkeypatch), "problem") if str(file) in text)
    assert told.startswith(f"your own models: {file}: ")
    assert told.endswith(" | see docs/selection.md, Your own models")


def test_what_an_unfinished_tuning_takes_is_noted(monkeypatch) -> None:
    folder = jobs.root() / "toy" / "mail.0123"
    folder.mkdir(parents=True)
    (note,) = (text for text in texts(examine(monkeypatch), "note") if "toy:mail" in text)
    assert "adapters jobs" in note


def test_this_machine_is_told_whole() -> None:
    done = CliRunner().invoke(cli, ["doctor"])

    assert done.exit_code == 0
    for heading in ("Machine", "Backends", "Plugins", "Store", "Used: ", "Problems", "Notes"):
        assert f"\n{heading}" in done.stdout
    assert f"EdgeLLM {edgellm.__version__}, Python 3." in done.stdout
    assert "echo" in done.stdout


def test_without_an_engine_it_says_that_nothing_runs_and_what_to_install(monkeypatch, with_plugins) -> None:
    with_plugins()
    report = examine(monkeypatch)

    assert report["schema"] == 1
    assert report["used"].startswith("no backend that runs a model")
    assert "no backend can run a model here | `make setup`, or pip install edgellm-gguf" in texts(report, "problem")


def test_a_plugin_that_does_not_load_is_a_problem_with_its_distribution(monkeypatch, with_plugins) -> None:
    with_plugins(raises=fake_plugins.RAISES)
    report = examine(monkeypatch)

    assert [row["status"] for row in report["plugins"] if row["name"] == "raises"] == ["error"]
    (problem,) = (text for text in texts(report, "problem") if "its library is gone" in text)
    assert "fake_raises.py, line 1) | pip install --upgrade" in problem


def test_a_backend_that_cannot_run_here_is_a_problem_with_its_reason(monkeypatch, with_plugins) -> None:
    source = fake_plugins.TAKES_ECHO.replace("register(EchoBackend())", "register(Old())").replace(
        "@hookimpl",
        "class Old(EchoBackend):\n    name = 'old'\n    def check(self, machine):\n"
        "        return [f'needs avx2, {machine.cpu.arch} has {machine.cpu.isa}']\n\n@hookimpl",
    )
    with_plugins(old=source)
    report = examine(monkeypatch)

    assert {"name": "old", "can_run": False} in [{k: r[k] for k in ("name", "can_run")} for r in report["backends"]]
    assert "backend old cannot run here: needs avx2, x86_64 has ()" in texts(report, "problem")[0]


def test_of_what_a_backend_says_at_length_the_beginning_is_shown() -> None:
    about = {f"row {i}": "x" for i in range(20_000)}
    versions = dict.fromkeys(("edgellm", "python", "platform", *LIBRARIES), "1")
    shown = render(Report(versions=versions, backends=[{"name": "long", "can_run": True, "about": about}]))

    assert "    row 39: x\n    and 19,960 more\n\nPlugins" in shown


def test_a_backend_that_raises_is_a_problem_too(monkeypatch, with_plugins) -> None:
    with_plugins()
    monkeypatch.setattr(EchoBackend, "check", lambda self, machine: 1 / 0)
    (told,) = (text for text in texts(examine(monkeypatch), "problem") if "check()" in text)
    assert told.startswith("plugin echo: backend echo: check() failed: ZeroDivisionError")


def test_a_probe_that_raises_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Machine:
        raise OSError("no /proc here")

    monkeypatch.setattr(doctor, "_probe", broken)
    done = CliRunner().invoke(cli, ["doctor"])

    assert done.exit_code == 0
    assert "the hardware probe failed: OSError: no /proc here" in done.stdout
    assert "Used: unknown" in done.stdout


OFFLOADS = """
from edgellm.contract.backend import Device, Offload
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl

class Offloads(EchoBackend):
    name = "offloads"
    def offload(self, machine):
        return OFFLOAD

@hookimpl
def register_backends(register):
    register(Offloads())
"""


def test_the_gpus_that_a_backend_uses_are_listed_and_not_called_unused(monkeypatch, with_plugins) -> None:
    with_plugins(offloads=OFFLOADS.replace("OFFLOAD", "Offload((Device('CUDA0', 'NVIDIA H100', 2**36),))"))
    machine = replace(MACHINE, accelerators=(Accelerator("cuda", "NVIDIA H100", 80 * GIB),))
    report = examine(monkeypatch, machine)
    row = next(row for row in report["backends"] if row["name"] == "offloads")

    assert row["devices"][0]["name"] == "CUDA0"
    assert row["about"]["GPU"] == "CUDA0, NVIDIA H100, 80.00 GiB of its own"
    assert not any("is not used" in text for text in texts(report, "note"))


def test_a_device_that_does_not_start_is_noted_where_another_one_does(monkeypatch, with_plugins) -> None:
    devices = "(Device('OpenVINOGPU0', 'Iris Xe', 2**34),)"
    with_plugins(two=OFFLOADS.replace("OFFLOAD", f"Offload({devices}, problems=('CUDA does not start (libcudart)',))"))
    report = examine(monkeypatch, MACHINE)
    (row,) = (row for row in report["findings"] if "CUDA does not start (libcudart)" in row["text"])
    assert row["fix"]


def test_limits_and_unused_accelerators_are_noted(monkeypatch, with_plugins) -> None:
    cure = 'CMAKE_ARGS="-DGGML_CUDA=ON" make setup'
    with_plugins(idle=OFFLOADS.replace("OFFLOAD", f"Offload(missing='no GPU backend', remedy='{cure}')"))
    machine = Machine(
        "boxed", "a container", Cpu("x86_64", cores=64), Memory(256 * GIB),
        limits=Limits(memory_bytes=700 * 1024**2, memory_used_bytes=0, cpus=1.5, source="cgroup v2 /app"),
        accelerators=(
            Accelerator("cuda", "NVIDIA H100", 80 * GIB), Accelerator("xe", "Arc A380", 6 * GIB, usable=False),
        ),
        gpu_problems=(GpuProblem("node_missing", "Arc A380", "/dev/dri/renderD128", container=True),),
        notes=("the caches are unknown: no sysfs",),
    )  # fmt: skip
    notes = texts(examine(monkeypatch, machine), "note")

    assert any(text.startswith("memory: 700 MiB of 256.00 GiB (cgroup v2 /app)") for text in notes)
    assert any("a quota of 1.5 of 64 cores gives 2 threads" in text for text in notes)
    assert any("NVIDIA H100 is not used" in text and "-DGGML_CUDA=ON" in text for text in notes)
    assert any("the caches are unknown" in text for text in notes)
    # No build mends what keeps programs from it.
    assert [text for text in notes if "A380" in text] == [
        "Arc A380 cannot be reached: there is no /dev/dri/renderD128 | start the container with it: "
        "docker run --device /dev/dri/renderD128"
    ]


def test_what_set_up_could_not_install_is_told_with_its_cure(tmp_path: Path, monkeypatch, with_plugins) -> None:
    with_plugins()
    row = {"key": "", "status": "failed", "note": "no C compiler", "hint": "apt-get install gcc g++"}
    (tmp_path / doctor.SETUP_RECORD).write_text(json.dumps({"edgellm-gguf": row}))
    report = examine(monkeypatch)

    assert "set-up could not install edgellm-gguf: no C compiler | apt-get install gcc g++" in texts(report, "problem")


def test_plugins_of_its_own_that_are_not_installed_are_named(tmp_path: Path, monkeypatch, with_plugins) -> None:
    with_plugins()
    monkeypatch.setattr("edgellm.cli.plugins.collect", lambda ctx: [{"name": "onnx", "status": "ok", "error": ""}])
    row = {"key": "", "status": "failed", "note": "no C compiler", "hint": ""}
    (tmp_path / doctor.SETUP_RECORD).write_text(json.dumps({"edgellm-bitnet": row}))
    (note,) = (text for text in texts(examine(monkeypatch), "note") if "is not installed" in text)

    assert note.startswith("edgellm-gguf")


@pytest.mark.parametrize("record", ["", "[]", '{"edgellm": 3}', "\x00"])
def test_a_record_that_is_none_is_noted(tmp_path: Path, monkeypatch, with_plugins, record: str) -> None:
    with_plugins()
    (tmp_path / doctor.SETUP_RECORD).write_text(record)
    assert any("cannot be read" in text for text in texts(examine(monkeypatch), "note"))


def test_the_store_and_a_full_disk(home: Path, monkeypatch, with_plugins) -> None:
    with_plugins()
    models = home / "data" / "models"
    models.mkdir(parents=True)
    (models / "a.gguf").write_bytes(b"x" * 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**8})())
    report = examine(monkeypatch)

    assert report["store"] == {"path": str(models), "files": 1, "bytes": 100, "free_bytes": 10**8}
    assert any(text.startswith("100.0 MB left on the disk of") for text in texts(report, "problem"))


def test_a_store_that_cannot_be_written_is_noted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_PLUGINS", "")
    (home / "data" / "models").mkdir(parents=True)

    done = run_read_only(home, sys.executable, "-m", "edgellm", "doctor", "--json")

    notes = [row["text"] for row in json.loads(done.stdout)["findings"]]
    assert any("cannot be written: nothing is fetched" in text for text in notes)
    assert not any("left on the disk" in text for text in notes)


@pytest.mark.parametrize(("name", "end"), [("data/history", "nothing is learned"), ("cache", "no calibration is kept")])
def test_each_folder_that_cannot_be_written_is_noted_with_what_that_ends(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str
) -> None:
    monkeypatch.setenv("EDGELLM_PLUGINS", "")
    (home / name).mkdir(parents=True, exist_ok=True)

    done = run_read_only(home / name, sys.executable, "-m", "edgellm", "doctor", "--json")

    notes = [row["text"] for row in json.loads(done.stdout)["findings"] if "cannot be written" in row["text"]]
    assert len(notes) == 1
    assert notes[0].startswith(f"{home / name} cannot be written: {end}")


def test_offline_is_noted(monkeypatch, with_plugins) -> None:
    with_plugins()
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    assert any("EDGELLM_OFFLINE is set" in text for text in texts(examine(monkeypatch), "note"))


def test_a_backend_says_itself_what_mends_it(monkeypatch, with_plugins) -> None:
    source = fake_plugins.TAKES_ECHO.replace("register(EchoBackend())", "register(Elder())").replace(
        "@hookimpl",
        "from edgellm.contract.backend import Advice\n\nclass Elder(EchoBackend):\n    name = 'elder'\n"
        "    def check(self, machine):\n"
        "        return ['it is old', 'and tired']\n    def advise(self, machine):\n"
        "        return [Advice('it is old', 'build it anew'), Advice('it is slow', 'wait')]\n\n@hookimpl",
    )
    with_plugins(elder=source)
    report = examine(monkeypatch)
    assert "backend elder cannot run here: it is old | build it anew" in texts(report, "problem")
    assert any(
        text.startswith("backend elder cannot run here: and tired | what the author of elder says")
        for text in texts(report, "problem")
    )
    assert "backend elder: it is slow | wait" in texts(report, "note")


def test_set_up_is_the_cure_where_set_up_made_the_environment(tmp_path: Path, monkeypatch, with_plugins) -> None:
    with_plugins()
    assert doctor.again("gguf").startswith("pip install")
    (tmp_path / doctor.SETUP_RECORD).write_text("{}")
    assert doctor.again("gguf").startswith("`make setup`")


def test_a_variable_that_is_unknown_is_noted_with_the_one_that_may_be_meant(monkeypatch, with_plugins) -> None:
    with_plugins()
    monkeypatch.setenv("EDGELLM_OFLINE", "1")
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0")  # a backend's own
    notes = texts(examine(monkeypatch), "note")
    (note,) = (text for text in notes if text.startswith("EDGELLM_OFLINE"))
    assert "is set and has no meaning | `EDGELLM_OFFLINE` may be meant" in note
    assert not any(text.startswith("EDGELLM_ECHO_STEP_S") for text in notes)


def test_values_of_variables_that_mean_nothing_are_problems_by_name(monkeypatch) -> None:
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "soon")
    monkeypatch.setattr(edgellm.contract.manager, "plugins", lambda: Plugins(frozenset({"ggfu"})))
    problems = texts(examine(monkeypatch), "problem")

    assert any(text.startswith("backend echo cannot run here: EDGELLM_ECHO_STEP_S='soon'") for text in problems)
    assert any("EDGELLM_PLUGINS names 'ggfu'" in text for text in problems)


def test_a_damaged_adapter_is_a_problem(monkeypatch) -> None:
    sound = hostile_adapters.SOUND.build()
    store = AdapterStore()
    for name in ("mail", "news"):
        origin = AdapterOrigin(name, "smollm2-135m-instruct", "Q4_1", "ab" * 32, "/models/base.gguf")
        damaged = store.add(origin, lambda path: path.write_bytes(sound))
    damaged.path.write_bytes(sound[:-1])

    (problem,) = (text for text in texts(examine(monkeypatch), "problem") if "adapter" in text)
    assert problem.startswith("the adapter smollm2-135m-instruct:news is damaged: ")
    assert problem.endswith("edgellm adapters rm smollm2-135m-instruct:news")


@pytest.mark.parametrize("version", ["1.9.1", ""])
def test_structured_output_needs_a_newer_system(monkeypatch, with_plugins, version: str) -> None:
    with_plugins()
    library = GrammarLibrary(version, (2, 31), (2, 28))
    monkeypatch.setattr(grammar_library, "look", lambda: library)
    (told,) = (text for text in texts(examine(monkeypatch), "note") if "grammar or schema" in text)
    assert told.startswith("structured output needs glibc 2.31 or newer, and this is 2.28")

    monkeypatch.setattr(grammar_library, "look", lambda: replace(library, glibc=(2, 31)))
    notes = [text for text in texts(examine(monkeypatch), "note") if "grammar or schema" in text]
    assert [text.startswith("without llguidance") for text in notes] == [True] * (not version)
