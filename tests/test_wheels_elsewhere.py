"""Libraries of wheels for other systems compute what those for Linux with glibc do: under wine, musl's loader, qemu.

make test-wheels-elsewhere    makes the wheels and runs these tests
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.made_wheels import PYTHON, ROOT, made, script
from support.native_driver import GROUP, Driver, Machine, code, driver
from support.tiny_models import Tiny, with_weights

pytestmark = [pytest.mark.timeout(3600), pytest.mark.by_hand]

HERE = Machine("x86_64")
MACHINES = {
    machine.target: machine
    for machine in (
        Machine("x86_64-windows", ("wine",), "wine wine64"),
        Machine("x86_64-musl", ("/lib/ld-musl-x86_64.so.1",), "musl"),
        Machine("aarch64-musl", ("qemu-aarch64",), "qemu-user mmdebstrap", root=("arm64", "musl")),
        Machine("armv7", ("qemu-arm", "-L", "/usr/arm-linux-gnueabihf"), "qemu-user libc6-armhf-cross"),
    )
}
READ_ONLY = ("aarch64-windows", "x86_64-macos", "aarch64-macos")  # nothing runs their programs here
# Codes differ in how they repack and in the order in which they add, C libraries in their functions. Mean difference
# over 200 tokens; the logits' standard deviation is 0.9 (llama.cpp, random weights).
TOLERANCE = 0.05
QUANTS = ("F16", "Q4_0", "Q4_K_M", "Q8_0")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By type, random weights."""
    folder = tmp_path_factory.mktemp("models")
    paths = {"F16": with_weights(Tiny("llama", n_layer=4).gguf(), folder / "F16.gguf")}
    for quant in QUANTS[1:]:
        paths[quant] = str(folder / f"{quant}.gguf")
        quantize = [sys.executable, "-P", "-m", "edgellm", "quantize", paths["F16"], "--to", quant]
        subprocess.run([*quantize, "--output", paths[quant]], check=True, stdout=subprocess.DEVNULL)
    return paths


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """For Linux with glibc, with nothing between."""
    return driver(HERE, tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module", params=MACHINES)
def elsewhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return driver(MACHINES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.mark.slow(60)
def test_llama_cpp_computes_elsewhere(here: Driver, elsewhere: Driver, models: dict[str, str], tmp_path: Path) -> None:
    for quant, model in models.items():
        _, expected = here.llama_logits(model, tmp_path / "here")
        _, logits = elsewhere.llama_logits(model, tmp_path / "elsewhere")
        assert float(np.abs(logits - expected).mean()) < TOLERANCE, quant
        assert expected.std() > 0.5


@pytest.mark.slow(30)
def test_the_ternary_engine_computes_elsewhere(here: Driver, elsewhere: Driver, tmp_path: Path) -> None:
    expected = here.ternary_logits(tmp_path / "here")["scalar"]
    computed = elsewhere.ternary_logits(tmp_path / "elsewhere")

    assert "scalar" in computed
    for name, logits in computed.items():
        assert float(np.abs(logits - expected).mean()) < TOLERANCE * expected.std(), name


@pytest.mark.slow(60)
def test_each_code_that_runs_here_computes(
    here: Driver, elsewhere: Driver, models: dict[str, str], tmp_path: Path
) -> None:
    _, expected = here.llama_logits(models["Q4_0"], tmp_path / "here")
    libraries = {code(file.name): file for file in elsewhere.llama.glob("*ggml-cpu*")}
    computed = set()
    for name, library in libraries.items():
        alone = tmp_path / f"alone-{name}"
        shutil.copytree(elsewhere.llama, alone, ignore=lambda _, names: [n for n in names if "ggml-cpu" in n])
        shutil.copy(library, alone)
        chosen, logits = elsewhere.llama_logits(models["Q4_0"], tmp_path / "logits", alone)
        if logits.size:
            assert chosen == name
            assert float(np.abs(logits - expected).mean()) < TOLERANCE, name
            computed.add(name)
    # qemu's processor has all that Arm's codes ask for; this one is asked by the libraries for Linux.
    assert computed == (scores(here) & set(libraries) if elsewhere.machine.is_here else set(libraries))


def scores(here: Driver) -> set[str]:
    """Codes that this processor runs, by the libraries for Linux."""
    question = "import ctypes, sys; [print(p) for p in sys.argv[1:] if ctypes.CDLL(p).ggml_backend_score() > 0]"
    files = sorted(map(str, here.llama.glob("libggml-cpu-*.so")))
    done = subprocess.run([sys.executable, "-c", question, *files], capture_output=True, text=True, check=True)
    return {code(Path(line).name) for line in done.stdout.splitlines()}


def faults(wheel: Path) -> list[str]:
    reader = ROOT / "plugins" / "wheels" / "binaries.py"
    return subprocess.run([PYTHON, reader, wheel], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow(10)
@pytest.mark.parametrize("name", ["llama_cpp_python", "edgellm_bitnet"])
@pytest.mark.parametrize("target", [*MACHINES, *READ_ONLY])
def test_files_are_what_the_tag_says(name: str, target: str) -> None:
    assert faults(made(name, script("targets").TARGETS[target].platform, GROUP)) == []


@pytest.mark.slow(5)
@pytest.mark.parametrize(
    ("target", "truth", "lie", "fault"),
    [
        ("x86_64-windows", b"KERNEL32.dll", b"KERNEL33.dll", "needs KERNEL33.dll"),
        ("x86_64-musl", b"\0libc.so\0", b"\0libx.so\0", "needs libx.so"),
        ("aarch64-macos", b"/usr/lib/libSystem.B", b"/opt/lib/libSystem.B", "needs /opt/lib/libSystem.B.dylib"),
    ],
)
def test_a_library_of_no_system_is_noticed(target: str, truth: bytes, lie: bytes, fault: str, tmp_path: Path) -> None:
    wheel = made("edgellm_bitnet", script("targets").TARGETS[target].platform, GROUP)
    changed = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(changed, "w") as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name).replace(truth, lie))

    assert any(line.endswith(fault) for line in faults(changed))


@pytest.mark.slow(5)
@pytest.mark.parametrize(
    ("one", "other", "fault"),
    [
        ("aarch64-macos", "x86_64-macos", "for ARM64, not X86_64"),
        ("aarch64-macos", "x86_64-windows", "is no PE file"),
        ("x86_64-windows", "aarch64-macos", "is no Mach-O file for one processor"),
        ("aarch64-windows", "x86_64-windows", "for ARM64, not AMD64"),
    ],
)
def test_a_tag_for_another_machine_is_noticed(one: str, other: str, fault: str, tmp_path: Path) -> None:
    targets = script("targets").TARGETS
    wheel = made("edgellm_bitnet", targets[one].platform, GROUP)
    lie = tmp_path / wheel.name.replace(targets[one].platform, targets[other].platform)
    shutil.copy(wheel, lie)

    assert any(line.endswith(fault) for line in faults(lie))
