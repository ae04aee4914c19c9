"""CUDA: the toolkit that is here or the package index's compiler, the architectures of the GPUs, and what fits what.

Of CUDA 12 the index has no compiler, only parts of one, so GPUs and drivers that CUDA 13 left behind need a toolkit.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm_gguf.device_build import toolchain
from edgellm_gguf.device_build.packages import Need

WHEELS_MAJOR, WHEELS_BYTES = 13, 1_000_000_000
# First capability that CUDA 13 compiles for: it left out Maxwell, Pascal and Volta.
LEAST_OF_13 = 75
# Capability -> first toolkit that compiles for it (release notes of CUDA).
FIRST_TOOLKIT = {
    75: (10, 0),
    80: (11, 0),
    86: (11, 1),
    87: (11, 4),
    89: (11, 8),
    90: (11, 8),
    100: (12, 8),
    120: (12, 8),
}


@dataclass(frozen=True, slots=True)
class Toolkit:
    """A CUDA compiler on this machine."""

    nvcc: str
    version: tuple[int, int]

    @property
    def root(self) -> Path:
        """As nvcc says itself: it may be called through a script elsewhere."""
        said = subprocess.run(
            [self.nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
        )
        top = re.search(r"^#\$ TOP=(.+)$", said.stderr, re.MULTILINE)
        return Path(top[1]) if top else Path(self.nvcc).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Driver:
    """What NVML says: the highest CUDA that the driver runs, and the GPUs' compute capabilities as 89 for 8.9."""

    version: str = ""
    cuda: tuple[int, int] | None = None
    capabilities: tuple[int, ...] = ()


def driver() -> Driver:
    """Without a driver, or a package that asks it, nothing is known."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return Driver()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return Driver()
    try:
        return _driver(nvml)
    except nvml.NVMLError:
        return Driver()
    finally:
        nvml.nvmlShutdown()


def _driver(nvml: Any) -> Driver:
    handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    pairs = [nvml.nvmlDeviceGetCudaComputeCapability(handle) for handle in handles]
    highest = nvml.nvmlSystemGetCudaDriverVersion()
    ask = nvml.nvmlSystemGetDriverVersion
    version = getattr(ask, "__wrapped__", ask)()  # what is wrapped around it fails where the text is no UTF-8
    name = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    capabilities = tuple(sorted({10 * major + minor for major, minor in pairs}))
    return Driver(name, (highest // 1000, highest % 1000 // 10), capabilities)


def toolkit() -> Toolkit | None:
    """As CMake finds it: CUDACXX, the folder that a variable names, the path, the usual place."""
    folders = [os.environ.get(name, "") for name in ("CUDAToolkit_ROOT", "CUDA_HOME", "CUDA_PATH")]
    candidates = [os.environ.get("CUDACXX", ""), *(f"{folder}/bin/nvcc" for folder in folders if folder)]
    for candidate in (*candidates, "nvcc", "/usr/local/cuda/bin/nvcc"):
        path = shutil.which(candidate) if candidate else None
        said = re.search(r"release (\d+)\.(\d+)", "\n".join(toolchain.lines(path, "--version"))) if path else None
        if path and said:
            return Toolkit(path, (int(said[1]), int(said[2])))
    return None


def lacks(root: Path) -> list[Need]:
    """What a toolkit in that folder has not: distributions bring the compiler alone, too."""
    library = "cublas.lib" if os.name == "nt" else "libcublas.so"
    if any(True for folder in ("lib64", "lib", "lib/x64", "targets/*/lib") for _ in root.glob(f"{folder}/{library}")):
        return []
    if toolchain.has_library("cublas"):  # Debian's toolkit has it among the system's libraries
        return []
    major = root.resolve().name.rpartition("-")[2]
    get = f"install the toolkit's cuBLAS (NVIDIA's packages: libcublas-dev-{major.replace('.', '-')})"
    return [Need(f"cuBLAS of the CUDA toolkit in {root.resolve()}", other=get)]


def misfits(version: tuple[int, int], here: Driver, capabilities: tuple[int, ...]) -> list[Need]:
    """Why a toolkit, or the index's wheels, cannot be used with this driver and these GPUs; empty = it can."""
    name, needs = f"CUDA {version[0]}.{version[1]}", []
    old = [capability for capability in capabilities if capability < LEAST_OF_13]
    if version[0] >= WHEELS_MAJOR and old:
        needs.append(Need(
            f"a toolkit of CUDA 12: {name} has no code for compute capability {', '.join(map(dotted, old))}",
            other="install CUDA 12.9 (the packages of the index have no compiler of CUDA 12), and name it in CUDA_HOME",
        ))  # fmt: skip
    first = {capability: FIRST_TOOLKIT.get(capability, (0, 0)) for capability in capabilities}
    needs += [
        Need(
            f"a newer toolkit: compute capability {dotted(capability)} needs CUDA {major}.{minor}, not {name}",
            other=f"install CUDA {major}.{minor} or newer, and name it in CUDA_HOME",
        )
        for capability, (major, minor) in first.items()
        if (major, minor) > version
    ]
    if here.cuda is not None and here.cuda[0] < version[0]:
        needs.append(Need(
            f"a newer driver: {here.version} runs CUDA {here.cuda[0]}.{here.cuda[1]} at most, not {name}",
            other=f"update the driver, or install a toolkit of CUDA {here.cuda[0]} and name it in CUDA_HOME",
        ))  # fmt: skip
    return needs


def dotted(capability: int) -> str:
    """8.9 of 89."""
    return f"{capability // 10}.{capability % 10}"


def prepared(folder: Path) -> Path:
    """The tree that pip put the wheels into, made one that CMake and a linker take for a toolkit.

    Wheels lose the permission to execute, and have no names without a version for a linker.
    """
    root = folder / "nvidia" / "cu13"
    for program in (*(root / "bin").iterdir(), *(root / "nvvm" / "bin").glob("*")):
        if program.is_file():
            program.chmod(program.stat().st_mode | 0o111)
    for library in (root / "lib").glob("*.so.*"):
        link = library.with_name(library.name.partition(".so.")[0] + ".so")
        if not link.exists():
            link.symlink_to(library.name)
    if not (root / "lib64").exists():
        (root / "lib64").symlink_to("lib")
    return root
