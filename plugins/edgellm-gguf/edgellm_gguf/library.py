"""Where llama.cpp's shared library is, and whether it runs on this CPU; nothing here imports `llama_cpp`.

A separate process finds out once whether it runs: it computes with the real kernels, which may end in an illegal
instruction. It also lists the GPUs that the library sees and the kinds of models that it opens. The answer is cached by
the library's hash, the CPU's instruction sets, and the GPUs of the machine.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgellm import settings
from edgellm.contract.backend import Device  # msgspec looks it up for Verdict
from edgellm.contract.probe import kept, probe_library, read_kept

if TYPE_CHECKING:
    from edgellm.types.machine import Machine

PROBE_TIMEOUT_S = 60.0
PROBE_VERSION = 2  # of the questions: answers to fewer are not used
# ggml's backends that compute on the CPU or on another machine.
NO_GPU = frozenset({"CPU", "BLAS", "RPC"})
# What a user may hide or choose devices with.
DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
)
LASTING_SIGNALS = frozenset({"SIGILL", "SIGTRAP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the probe found. `problem` is empty where the library runs."""

    problem: str
    system_info: str = ""
    library_sha256: str = ""
    offload: bool = False  # the library says that it can put layers on a GPU, here
    backends: tuple[str, ...] = ()  # what it was built with: "CPU", "Vulkan"
    devices: tuple[Device, ...] = ()  # GPUs that it sees; how much of them is free is not kept
    architectures: frozenset[str] | None = None  # GGUF architectures that it loads; None = it does not tell
    tensor_types: frozenset[str] = frozenset()  # of the tensors that it opens: "Q4_K"
    # Tensor types that it copies into another layout while loading -> bytes of the copy for a byte of the file.
    repacked: dict[str, float] = field(default_factory=dict)

    @property
    def gpu_backends(self) -> tuple[str, ...]:
        return tuple(name for name in self.backends if name not in NO_GPU)


def library_dir() -> Path | None:
    """Folder of the shared libraries: LLAMA_CPP_LIB_PATH, else the one in the package; None = no package."""
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    if override:
        return Path(override)
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.origin).parent / "lib" if spec is not None and spec.origin else None


def library_files() -> list[Path]:
    """The shared libraries, sorted by name, each file once (links resolved)."""
    folder = library_dir()
    if folder is None or not folder.is_dir():
        return []
    suffixes = (".so", ".dylib", ".dll")
    return sorted({path.resolve() for path in folder.iterdir() if path.name.endswith(suffixes) and path.is_file()})


def missing() -> str:
    """Why there is no library to load, with the way out; empty = there is one."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed: run `make setup` where a C++ compiler is, or set LLAMA_CPP_LIB_PATH"
    if not any("llama" in path.name for path in library_files()):
        return f"no libllama in {library_dir()}: set LLAMA_CPP_LIB_PATH to the folder that has one"
    return ""


def verdict(machine: Machine) -> Verdict:
    """The cached answer of the probe for this library on this machine; probes when there is none (a second, once)."""
    digest = _files_digest()
    cached = settings.current().cache_dir / "gguf-probe" / f"{digest[:16]}-{_circumstances(machine)[:16]}.json"
    return kept(cached, Verdict, lambda: _probe(digest))


def last_verdict() -> Verdict | None:
    """The newest cached answer about this library, for questions without a machine; None = there is none yet."""
    try:
        answers = (settings.current().cache_dir / "gguf-probe").glob(f"{_files_digest()[:16]}-*.json")
        newest = max(answers, key=lambda path: path.stat().st_mtime_ns, default=None)
    except OSError:
        return None
    return read_kept(newest, Verdict) if newest else None


def build() -> str:
    """Names the library's code: version of the binding, and a digest of the files."""
    version = importlib.metadata.version("llama-cpp-python") if importlib.util.find_spec("llama_cpp") else "none"
    return f"llama-cpp-python {version} ({_files_digest()[:8]})"


def _circumstances(machine: Machine) -> str:
    """Digest of what the answer depends on beside the library."""
    gpus = [f"{gpu.kind} {gpu.name} {gpu.vram_bytes}" for gpu in machine.accelerators]
    variables = [f"{name}={os.environ.get(name, '')}" for name in DEVICE_VARIABLES]
    facts = (f"questions {PROBE_VERSION}", platform.machine(), machine.cpu.model, *machine.cpu.isa, *gpus, *variables)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _files_digest() -> str:
    stamps = [(path, path.stat()) for path in library_files()]
    return _digest(tuple((str(path), stamp.st_size, stamp.st_mtime_ns) for path, stamp in stamps))


@functools.lru_cache(maxsize=4)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Of all bytes. Kept while the process lives: libraries with GPU code have gigabytes."""
    whole = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _probe(digest: str) -> tuple[Verdict, bool]:
    """What the throwaway process finds, and whether it will find the same tomorrow.

    That it runs, or dies of an instruction or a fault, follows from library and CPU. That it found no memory or
    another library missing does not.
    """
    probed = probe_library("edgellm_gguf.probe", "the library", PROBE_TIMEOUT_S)
    if probed.signal:
        reason = "an instruction this CPU does not have" if probed.signal == "SIGILL" else "native code crashed"
        problem = f"{probed.problem} ({reason}): rebuild it on this machine"
        return Verdict(problem, library_sha256=digest), probed.signal in LASTING_SIGNALS
    if probed.problem:
        return Verdict(probed.problem, library_sha256=digest), False
    try:
        verdict = msgspec.convert({"problem": "", **msgspec.json.decode(probed.answer)}, Verdict)
    except (ValueError, TypeError):
        problem = f"the library's probe answers nonsense: {probed.answer}"
        return Verdict(problem, library_sha256=digest), False
    # A driver that is missing today may be installed tomorrow.
    return replace(verdict, library_sha256=digest), not verdict.gpu_backends or bool(verdict.devices)
