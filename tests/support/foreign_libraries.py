"""Real libraries of other releases against the guard: a wheel of the package index, and builds of other commits.

    python tests/support/foreign_libraries.py FOLDER [--commits] [--drifts]

Everything is fetched and built in FOLDER, and nothing of it is committed. Each library must be refused. What is said of
it is printed, with the time of a whole `edgellm run` that is refused, its probe done before. `--commits` builds the
llama.cpp of two earlier releases of the binding, without optimization: some minutes of a processor each. `--drifts`
takes the installed library, with one struct in turn as another release would have it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from edgellm_gguf.plugin import GgufBackend

from edgellm.errors import UnsupportedArtifact
from edgellm.hardware.probe import probe
from support.drifted_library import DRIFTS, folder_with
from support.tiny_models import MODELS

# A field before `abort_callback` that the binding has not; x86-64 with glibc 2.38 or newer.
WHEEL = "llama-cpp-py-sync==0.11739 --hash=sha256:c97dd32b41841ab779172f9d20616cc915a73045ae5dca4b81051e6cd2751714"
RELEASES = ("0.3.35", "0.3.31")  # of llama-cpp-python
SETTINGS = (
    "cmake.build-type=Debug", "cmake.define.LLAVA_BUILD=OFF", "cmake.define.GGML_OPENMP=OFF",
    "cmake.define.GGML_NATIVE=OFF", "cmake.define.GGML_LLAMAFILE=OFF", "cmake.define.GGML_CPU_REPACK=OFF",
)  # fmt: skip
TRIM = "set(LLAMA_BUILD_COMMON OFF)\n"


def wheel(folder: Path) -> Path:
    """The libraries of the wheel."""
    requirements = folder / "requirements.txt"
    requirements.write_text(WHEEL + "\n")
    _pip("download", "--no-deps", "--only-binary", ":all:", "-d", str(folder), "-r", str(requirements))
    return _unpacked(next(folder.glob("llama_cpp_py_sync-*.whl")), folder / "wheel")


def commit(release: str, folder: Path) -> Path:
    """The libraries of that release of the binding."""
    (folder / "trim.cmake").write_text(TRIM)
    settings = [*SETTINGS, f"cmake.define.CMAKE_PROJECT_llama.cpp_INCLUDE={folder / 'trim.cmake'}"]
    options = [f"--config-settings={setting}" for setting in settings]
    if not list(folder.glob(f"llama_cpp_python-{release}-*.whl")):
        name = "llama-cpp-python"
        _pip("wheel", "--no-deps", "--no-binary", name, "--wheel-dir", str(folder), *options, f"{name}=={release}")
    return _unpacked(next(folder.glob(f"llama_cpp_python-{release}-*.whl")), folder / release)


def _unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder)
    return next(folder.rglob("libllama.so")).parent


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def check(name: str, folder: Path, model: Path) -> bool:
    """Print what is said of the library, and what a command takes that is refused; whether it was."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(folder)
    problems = GgufBackend().check(probe(measure=False))
    command = [sys.executable, "-m", "edgellm", "run", "--backend", "gguf", str(model), "hi"]
    start, before = time.perf_counter(), _children_s()
    status = subprocess.run(command, capture_output=True, check=False).returncode
    del os.environ["LLAMA_CPP_LIB_PATH"]
    took_ms, used_ms = 1e3 * (time.perf_counter() - start), 1e3 * (_children_s() - before)
    print(f"{name}: {'; '.join(problems) or 'ACCEPTED'}")
    print(f"  edgellm run: exit status {status}, {took_ms:.0f} ms, {used_ms:.0f} ms of processor time", flush=True)
    return bool(problems) and status == UnsupportedArtifact.exit_code


def _children_s() -> float:
    """Processor time of the processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commits", action="store_true", help="also build the llama.cpp of two earlier releases")
    parser.add_argument("--drifts", action="store_true", help="also libraries with one struct of another release")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model = MODELS["llama"].sparse(folder)
    refused = [check("llama-cpp-py-sync", wheel(folder), model)]
    refused += [check(release, commit(release, folder), model) for release in (RELEASES if options.commits else ())]
    for drift in DRIFTS if options.drifts else ():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            refused.append(check(str(drift), folder_with(drift, Path(own)), model))
    print(f"{sum(refused)} of {len(refused)} refused")
    return 0 if all(refused) else 1


if __name__ == "__main__":
    sys.exit(main())
