"""Set-up keeps parts apart, does nothing twice, builds once per machine and can be interrupted.

Only pip is played, by a script that writes down what it was asked and fails where its script says so: what it does here
needs an index.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

PLUGINS = Path(__file__).parents[1] / "plugins"
# What `python plugins/install.py` imports.
MODULES = ("alone", "install", "native", "optional", "progress", "ready")
PIP = """#!/bin/sh
# Stands in for `.venv/bin/python -m pip --no-input ...`.
shift 3
echo "$@" >> "{log}"
case "$*" in
  *--dry-run*) while [ "$1" != --report ]; do shift; done; cp "{log}.report" "$2" ;;
  *{fails}*) echo "native/kernel.c:3:1: error: unknown type name 'flaot'"
    echo "ERROR: Failed building wheel"; exit 1 ;;
  download*) while [ "$1" != --dest ]; do shift; done; touch "$2/lib-1.0.tar.gz" ;;
  wheel*) echo "  [1/2] cc a"; echo "  [2/2] cc b"
    while [ "$1" != --wheel-dir ]; do shift; done; touch "$2/lib-1.0-py3-none-any.whl" ;;
  *{sleeps}*) sleep 300 & echo $! > "{log}.child"; wait ;;
esac
"""
NATIVE = """
[tool.edgellm.native]
requirement = "lib.txt"
settings = ["cmake.define.FILE={here}/trim.cmake"]
inputs = ["trim.cmake"]
prebuilt_env = "LIB_PATH"
prebuilt_library = "lib"
prebuilt_settings = ["wheel.cmake=false"]
build_env = "LIB_BUILD"

[tool.edgellm.native.builds]
small = []
large = ["cmake.define.LARGE=ON", "cmake.define.FILE={here}/large.cmake"]
"""


class Repository:
    """A core, a plugin with a native library and a plain one; and an environment with the played pip."""

    def __init__(self, folder: Path, module) -> None:
        self.folder, self.module = folder, module
        self.venv, self.log = folder / ".venv", folder / "pip.log"
        for name, extra in (("", ""), ("plugins/edgellm-native", NATIVE), ("plugins/edgellm-plain", "")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            project = f'[project]\nname = "{Path(name).name or "edgellm"}"\n'
            (folder / name / "pyproject.toml").write_text(project + extra)
        (folder / "plugins/edgellm-native/lib.txt").write_text("lib==1.0 --hash=sha256:00\n")
        (folder / "plugins/edgellm-native/trim.cmake").write_text("set(A OFF)")
        (folder / "plugins/edgellm-native/large.cmake").write_text("set(B OFF)")
        (self.venv / "bin").mkdir(parents=True)
        self.play()

    def play(self, *, fails: str = "no-such-word", sleeps: str = "no-such-word") -> None:
        python = self.venv / "bin" / "python"
        python.write_text(PIP.format(log=self.log, fails=fails, sleeps=sleeps))
        python.chmod(0o755)

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        """Exit status, and what pip was asked for."""
        self.log.unlink(missing_ok=True)
        status = self.module.main(["--venv", str(self.venv), *arguments])
        return status, self.log.read_text().splitlines() if self.log.exists() else []

    def record(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads((self.venv / "edgellm-setup.json").read_text())
        return found


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    """(install, native), imported as `python plugins/install.py` imports them."""
    monkeypatch.syspath_prepend(PLUGINS)
    import install
    import native

    yield install, native
    for module in MODULES:
        del sys.modules[module]


@pytest.fixture
def repository(tmp_path: Path, modules, monkeypatch: pytest.MonkeyPatch) -> Repository:
    install_module, native_module = modules
    monkeypatch.setattr(install_module, "ROOT", tmp_path / "repo")
    monkeypatch.setattr(native_module, "compilers", lambda: {"CC": "cc 1", "CXX": "c++ 1"})
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    for name in ("LIB_PATH", "LIB_BUILD"):
        monkeypatch.delenv(name, raising=False)
    return Repository(tmp_path / "repo", install_module)


def test_core_first_then_each_plugin_then_nothing(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    status, asked = repository.run()
    folder = repository.folder

    assert status == 0
    assert asked[0] == f"install --editable {folder}"
    plugin = folder / "plugins" / "edgellm-native"
    assert asked[1].startswith("download --no-deps --no-binary lib --dest ")
    assert asked[1].endswith(f" --requirement {plugin}/lib.txt")
    assert asked[2].startswith("wheel -v --no-deps --no-cache-dir --wheel-dir ")
    assert f" --config-settings=cmake.define.FILE={plugin}/trim.cmake " in asked[2]
    assert asked[2].endswith("/lib-1.0.tar.gz")
    assert asked[3].startswith("install --force-reinstall --no-deps ")
    assert asked[4:] == [f"install --editable {folder}/plugins/edgellm-{name}" for name in ("native", "plain")]
    assert "edgellm-native   installed" in capsys.readouterr().out
    assert repository.run() == (0, [])
    assert capsys.readouterr().out == ""


def test_one_that_fails_never_stops_the_others(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    repository.play(fails="lib-1.0.tar.gz")
    status, asked = repository.run()
    row = repository.record()["edgellm-native"]

    assert status == 0
    assert asked[-1].endswith("edgellm-plain")
    assert (row["status"], row["note"]) == ("failed", "native/kernel.c:3:1: error: unknown type name 'flaot'")
    assert row["hint"] == f"the whole log: {repository.venv}/setup-edgellm-native.log"
    assert "ERROR: Failed building wheel" in (repository.venv / "setup-edgellm-native.log").read_text()
    assert "failed" in capsys.readouterr().out

    repository.play()
    assert len(repository.run()[1]) == 4  # tried again, and only that one
    assert repository.record()["edgellm-native"]["status"] == "installed"


def test_without_the_core_nothing_else_is_tried(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    repository.play(fails="--editable")
    status, asked = repository.run()

    assert status == 1
    assert len(asked) == 1
    assert "Set-up failed: native/kernel.c:3:1" in capsys.readouterr().err


def test_a_second_checkout_takes_the_library_from_the_shelf(repository: Repository, tmp_path: Path) -> None:
    repository.run()
    (repository.venv / "edgellm-setup.json").unlink()
    asked = repository.run()[1]

    assert not any(line.startswith("wheel") for line in asked)
    assert any(str(tmp_path / "home" / "cache" / "wheels" / "lib-1.0-") in line for line in asked)


@pytest.mark.parametrize("change", ["processor", "compiler", "flags", "file", "version"])
def test_what_changes_the_library_builds_it_again(
    repository: Repository, modules, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    repository.run()
    folder = repository.folder / "plugins" / "edgellm-native"
    if change == "processor":
        monkeypatch.setattr(modules[1], "processor", lambda: "another processor")
    elif change == "compiler":
        monkeypatch.setattr(modules[1], "compilers", lambda: {"CC": "cc 2"})
        (repository.venv / "edgellm-setup.json").unlink()  # a compiler alone does not rebuild what works
    elif change == "flags":
        monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    elif change == "file":
        (folder / "trim.cmake").write_text("set(A ON)")
    else:
        (folder / "lib.txt").write_text("lib==1.1 --hash=sha256:00\n")

    assert any(line.startswith("wheel") for line in repository.run()[1])


def test_each_build_is_kept_by_itself(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("LARGE" in line for line in repository.run()[1])
    monkeypatch.setenv("LIB_BUILD", "large")
    asked = repository.run()[1]
    assert "--config-settings=cmake.define.LARGE=ON" in asked[1]
    assert repository.run() == (0, [])
    monkeypatch.setenv("LIB_BUILD", "small")
    assert not any(line.startswith("wheel") for line in repository.run()[1])  # it is still on its shelf
    (repository.folder / "plugins/edgellm-native/large.cmake").write_text("set(B ON)")  # of the large one alone
    assert repository.run() == (0, [])
    monkeypatch.setenv("LIB_BUILD", "large")
    assert any(line.startswith("wheel") for line in repository.run()[1])
    monkeypatch.setenv("LIB_BUILD", "huge")
    repository.run()
    row = repository.record()["edgellm-native"]
    assert (row["status"], row["note"]) == ("failed", "LIB_BUILD=huge is no build")
    assert row["hint"] == "one of small, large, or unset it"


def test_test_tools_stay_when_serve_follows_test(repository: Repository) -> None:
    assert repository.run("--extras", "test,check")[1][0].endswith("repo[check,test]")
    assert repository.run() == (0, [])


def test_a_named_library_is_used_without_a_compiler(
    repository: Repository, modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIB_PATH", str(tmp_path))
    monkeypatch.setattr(modules[1], "compilers", lambda: pytest.fail("asked for a compiler"))
    repository.run()
    assert "holds no liblib.so" in repository.record()["edgellm-native"]["note"]

    (tmp_path / "liblib.so").touch()
    asked = repository.run()[1]
    assert "--config-settings=wheel.cmake=false" in asked[1]
    assert repository.record()["edgellm-native"]["note"] == f"uses {tmp_path}; keep LIB_PATH set when EdgeLLM runs"


def test_without_a_compiler_it_says_which_and_how_to_get_one(modules, monkeypatch: pytest.MonkeyPatch) -> None:
    native_module = modules[1]
    monkeypatch.setenv("PATH", "/nowhere")
    with refuses(native_module.Failed):
        native_module.compilers()


def test_an_interrupt_ends_pip_and_what_pip_started(repository: Repository) -> None:
    repository.play(sleeps="edgellm-plain")
    for module in MODULES:
        (repository.folder / "plugins" / f"{module}.py").write_text((PLUGINS / f"{module}.py").read_text())
    command = [sys.executable, str(repository.folder / "plugins" / "install.py")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    child = Path(f"{repository.log}.child")
    log = repository.venv / "setup-edgellm-plain.log"  # from here on an interrupt is passed on to pip
    wait_until(lambda: child.exists() and child.read_text().strip() and log.exists())
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=PATIENCE_S)[1]

    assert process.returncode == 130
    assert "Interrupted. What was finished is kept" in told
    wait_until(lambda: not alive(int(child.read_text())))


def test_a_second_set_up_waits_for_the_first_and_says_so(repository: Repository) -> None:
    import alone

    for module in MODULES:
        (repository.folder / "plugins" / f"{module}.py").write_text((PLUGINS / f"{module}.py").read_text())
    with alone.alone(repository.folder / ".venv.lock"):
        command = [sys.executable, str(repository.folder / "plugins" / "install.py")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        assert not repository.log.exists()
    rest = process.communicate(timeout=PATIENCE_S)[0]

    assert f"process {os.getpid()}" in first
    assert process.returncode == 0
    assert "installed" in rest


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and only waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["x.cpp:1:2: error: a", "y.cpp:3:4: error: b", "error: subprocess-exited-with-error"], "x.cpp:1:2: error: a"),
        (["AttributeError: first", "FileNotFoundError: second", "error: metadata"], "FileNotFoundError: second"),
        (["ERROR: Could not find a version", "ERROR: No matching distribution"], "ERROR: No matching distribution"),
        ([], ""),
    ],
)
def test_the_likely_cause_is_picked(modules, lines: list[str], cause: str) -> None:
    assert modules[0].likely_cause(lines) == cause


def test_progress_is_a_line_each_tenth_where_there_is_no_terminal(modules, capsys: pytest.CaptureFixture[str]) -> None:
    progress = modules[0].Progress("lib")
    for step in range(1, 101):
        progress(f"  [{step}/100] cc file.c")

    assert [line.split(" %")[0].split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        str(tenth) for tenth in range(10, 101, 10)
    ]


def test_where_pip_says_nothing_progress_does(modules, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(modules[0].Progress, "SILENCE_S", 0.01)
    progress = modules[0].Progress("lib")
    progress("  Downloading big.tar.gz (70 MB)")
    told: list[str] = []

    def has_told() -> bool:
        told.extend(capsys.readouterr().out.splitlines())
        return len(told) > 1

    with progress.alive():
        wait_until(has_told)
    assert {line.partition(",")[0] for line in told} == {"  lib: Downloading big.tar.gz"}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Installing collected packages: a, b, c", "Installing collected packages"),
        ("  Installing build dependencies: started", ""),
        ("Installing build dependencies: started", "Installing build dependencies"),
        ("Building wheels for collected packages: a", "Building wheels for collected packages"),
        ("Collecting numpy>=1.26 (from edgellm==0.1.0)", "Collecting numpy>=1.26"),
        ("Downloading numpy-2.0.0.whl.metadata (6 kB)", "Downloading numpy-2.0.0.whl.metadata"),
    ],
)
def test_what_pip_does_is_told_as_a_whole_sentence(modules, line: str, shown: str) -> None:
    progress = modules[0].Progress("lib")
    progress(f"{line}\n")

    assert progress.doing == (shown or "asking pip")


def test_a_python_that_is_too_old_is_told_which_to_use() -> None:
    done = subprocess.run(
        ["make", "setup", "PYTHON=/bin/false"], cwd=PLUGINS.parent, capture_output=True, text=True, check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
    )  # fmt: skip

    assert done.returncode != 0
    assert "EdgeLLM needs Python 3.11 or newer, and '/bin/false' is not that." in done.stderr


def test_a_library_without_a_wheel_is_done_without(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    with (repository.folder / "pyproject.toml").open("a") as file:
        file.write('[project.optional-dependencies]\ngrammar = ["masks>=1"]\n')
    repository.play(fails="masks")
    status, asked = repository.run()

    assert status == 0
    assert asked[1] == "install --only-binary=:all: masks>=1"
    assert "without masks>=1" in capsys.readouterr().out
    assert repository.record()["edgellm"]["status"] == "installed"


def with_optional_part(repository: Repository, *packages: tuple[str, int]) -> None:
    """A part that is left out, for which pip would fetch `packages`: (name, bytes)."""
    folder = repository.folder / "plugins" / "edgellm-more"
    folder.mkdir()
    optional = '[tool.edgellm.optional]\nextra = "large"\nword = "make setup-more"\n'
    (folder / "pyproject.toml").write_text('[project]\nname = "edgellm-more"\n' + optional)
    rows: list[object] = [{"metadata": {"name": "edgellm-more"}, "download_info": {"dir_info": {}, "url": "file:///"}}]
    for name, n_bytes in packages:
        wheel = repository.folder / f"{name}.whl"
        wheel.write_bytes(bytes(n_bytes))
        rows.append({"metadata": {"name": name, "version": "1"}, "download_info": {"url": wheel.as_uri()}})
    Path(f"{repository.log}.report").write_text(json.dumps({"install": rows}))


def test_an_optional_part_is_installed_where_it_is_named(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    with_optional_part(repository, ("torch", 3_000_000), ("sympy", 1_000_000))
    assert not any("edgellm-more" in line for line in repository.run()[1])
    capsys.readouterr()

    status, asked = repository.run("--with", "edgellm-more", "--extras", "test")
    assert status == 0
    assert asked[-1] == f"install --editable {repository.folder}/plugins/edgellm-more[large,test]"
    assert "edgellm-more needs 2 packages of 4 MB (about 16 MB on the disk): torch, sympy" in capsys.readouterr().out
    assert repository.run("--with", "edgellm-more")[1] == []


def test_gigabytes_for_gpus_are_fetched_only_where_that_is_asked(repository: Repository) -> None:
    with_optional_part(repository, ("torch", 3_000_000), ("nvidia-cudnn", 5_000_000))
    asked = repository.run("--with", "edgellm-more")[1]
    row = repository.record()["edgellm-more"]

    assert not any(line.startswith("install --editable") and "edgellm-more" in line for line in asked)
    assert row["status"] == "failed"
    assert (
        "2 packages of 8 MB (about 32 MB on the disk) would be installed, 1 of them for GPUs, as nvidia-cudnn"
        in row["note"]
    )
    assert "`make setup-more ARGS=--gpu`" in row["hint"]
    assert "pip install torch --index-url INDEX" in row["hint"]

    asked = repository.run("--with", "edgellm-more", "--gpu")[1]
    assert asked[-1].endswith("edgellm-more[large]")
    assert repository.record()["edgellm-more"]["status"] == "installed"
    # One for processors may have been taken away meanwhile, so that this one is fetched.
    assert repository.run("--with", "edgellm-more")[1] == []
    assert repository.run("--with", "edgellm-more", "--gpu")[1][-1].endswith("edgellm-more[large]")


COMPILES = '[build-system]\nbuild-backend = "scikit_build_core.build"\n'


@pytest.fixture
def without_compiler(repository: Repository, modules, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A machine that has none; one more plugin compiles its own code."""

    def compilers(**_: bool) -> dict[str, str]:
        raise modules[1].Failed("no C compiler", "install one")

    folder = repository.folder / "plugins" / "edgellm-own"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "edgellm-own"\n' + COMPILES)
    monkeypatch.setattr(modules[1], "compilers", compilers)
    monkeypatch.setattr(modules[0], "compilers", compilers)
    monkeypatch.delenv("EDGELLM_WHEELS", raising=False)
    return repository


def with_wheels(folder: Path) -> None:
    folder.mkdir()
    for name in ("lib-1.0+edgellm-py3-none-any.whl", "edgellm_own-0.1.0-py3-none-linux_x86_64.whl"):
        (folder / name).touch()


def from_wheels(folder: Path, requirement: str) -> list[str]:
    return [
        f"install --force-reinstall --no-deps --no-index --find-links {folder} {requirement}",
        f"install --find-links {folder} {requirement}",
    ]


def test_without_a_compiler_the_wheels_of_the_checkout_are_installed(without_compiler: Repository) -> None:
    dist = without_compiler.folder / "dist"
    with_wheels(dist)
    _, asked = without_compiler.run()

    assert asked[1:3] == from_wheels(dist, "lib==1.0+edgellm")
    assert asked[4:6] == from_wheels(dist, "edgellm-own")
    assert {row["status"] for row in without_compiler.record().values()} == {"installed"}
    assert without_compiler.run()[1] == []


def test_without_a_compiler_and_wheels_set_up_says_what_it_would_take(without_compiler: Repository) -> None:
    without_compiler.run()

    for name in ("edgellm-native", "edgellm-own"):
        row = without_compiler.record()[name]
        assert (row["status"], row["note"]) == ("failed", "no C compiler")
        assert "EDGELLM_WHEELS" in row["hint"]
    assert without_compiler.record()["edgellm-plain"]["status"] == "installed"


def test_a_folder_of_wheels_that_is_named_is_taken_wherever_it_lies(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wheels"
    with_wheels(folder)
    monkeypatch.setenv("EDGELLM_WHEELS", str(folder))
    assert repository.run()[1][1:3] == from_wheels(folder, "lib==1.0+edgellm")
    assert repository.run()[1] == []

    os.utime(folder / "lib-1.0+edgellm-py3-none-any.whl", (1, 1))
    assert repository.run()[1][:2] == from_wheels(folder, "lib==1.0+edgellm")

    (folder / "lib-1.0+edgellm-py3-none-any.whl").unlink()
    repository.run()
    row = repository.record()["edgellm-native"]
    assert row["status"] == "failed"
    assert str(folder) in row["note"]
