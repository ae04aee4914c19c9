"""Where llama.cpp's shared library is, and whether it is the right one and runs on this CPU; nothing here imports
`llama_cpp`.

A separate process finds out once: it compares the library with the binding, and computes with the real kernels, which
may end in an illegal instruction. It also lists the GPUs that the library sees and the kinds of models that it opens.
The answer is cached by the library's hash, the CPU's instruction sets, and the GPUs of the machine.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from edgellm import settings
from edgellm.contract.probe import kept, probe_library, read_kept
from edgellm_gguf import device_backends
from edgellm_gguf.verdict import Mismatch, Verdict

if TYPE_CHECKING:
    from edgellm.types.machine import Machine

PROBE_TIMEOUT_S = 60.0
PROBE_VERSION = 5  # of the questions: answers to fewer are not used
# What a user may hide or choose devices with.
VULKAN_VARIABLES = ("GGML_VK_VISIBLE_DEVICES", "VK_DRIVER_FILES", "VK_ICD_FILENAMES")
DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
    *VULKAN_VARIABLES,
)
# By the libraries' digest and the folder of verdicts, the one that this process asked for: others share the folder.
_asked: dict[tuple[str, Path], Path] = {}
LASTING_SIGNALS = frozenset({"SIGILL", "SIGTRAP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT"})


# Where an assertion of ggml fails, it would start a debugger beside the process, or leave copies of the process.
ENVIRONMENT = MappingProxyType({"GGML_NO_BACKTRACE": "1"})
NAMES = ("libllama.so", "libllama.dylib", "llama.dll", "libllama.dll")  # as the binding looks for it


class Answer(msgspec.Struct):
    """What the probe prints: a mismatch, where there is one, or the facts."""

    version: str = ""
    mismatch: Mismatch | None = None
    loading: tuple[str, ...] = ()  # backends for GPUs that it was about to load, the facts of the rest being complete


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


def library_file() -> Path | None:
    """libllama itself, under the name that the binding opens; None = there is none."""
    folder = library_dir()
    return next((folder / name for name in NAMES if (folder / name).is_file()), None) if folder else None


def is_of_wheel() -> bool:
    """Whether all libraries are those of the binding's own wheel, byte for byte, wherever they lie: then library and
    binding were made of one source."""
    try:
        files = importlib.metadata.files("llama-cpp-python") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    recorded = {(file.name, file.hash.value) for file in files if file.hash}
    return all((path.name, _recorded_digest(path)) in recorded for path in library_files())


def _recorded_digest(path: Path) -> str:
    """As RECORD of a wheel has it."""
    with open(path, "rb") as file:
        return base64.urlsafe_b64encode(hashlib.file_digest(file, "sha256").digest()).decode().rstrip("=")


def binding_release() -> str:
    """Of the binding, without what our own packing adds to it ("0.3.36+edgellm").

    Raises:
        importlib.metadata.PackageNotFoundError: there is no binding.
    """
    return importlib.metadata.version("llama-cpp-python").partition("+")[0]


def missing() -> str:
    """Why there is no library to load, with the way out; empty = there is one."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed: run `make setup` where a C++ compiler is, or set LLAMA_CPP_LIB_PATH"
    if library_file() is None:
        return f"no libllama in {library_dir()}: set LLAMA_CPP_LIB_PATH to the folder that has one"
    return ""


def verdict(machine: Machine) -> Verdict:
    """The cached answer of the probe for this library on this machine; probes when there is none (a second, once)."""
    digest, folder = _files_digest(), settings.current().cache_dir / "gguf-probe"
    cached = folder / f"{digest[:16]}-{_circumstances(machine)[:16]}.json"
    _asked[digest, folder] = cached
    return kept(cached, Verdict, lambda: _probe(digest))


def last_verdict() -> Verdict | None:
    """What is kept of this library's answer to this process, or else the newest that is kept, for questions without a
    machine; None = there is none yet."""
    digest, folder = _files_digest(), settings.current().cache_dir / "gguf-probe"
    try:
        answers = folder.glob(f"{digest[:16]}-*.json")
        newest = max(answers, key=lambda path: path.stat().st_mtime_ns, default=None)
    except OSError:
        return None
    newest = _asked.get((digest, folder), newest)
    return read_kept(newest, Verdict) if newest else None


def circumstances() -> str:
    """Names the library and what its answers depend on, as its last verdict in this process; "" = it was not asked."""
    asked = _asked.get((_files_digest(), settings.current().cache_dir / "gguf-probe"))
    return asked.stem if asked is not None else ""


def build() -> str:
    """Names the library's code: version of the binding, a digest of the files, and the variant that computes."""
    version = binding_release() if importlib.util.find_spec("llama_cpp") else "none"
    last = last_verdict()
    variant = f" {last.variant}" if last and last.variant else ""
    return f"llama-cpp-python {version} ({_files_digest()[:8]}){variant}"


def _circumstances(machine: Machine) -> str:
    """Digest of what the answer depends on beside the library."""
    gpus = [f"{gpu.kind} {gpu.name} {gpu.vram_bytes} {gpu.slot}" for gpu in machine.accelerators]
    variables = [f"{name}={os.environ.get(name, '')}" for name in DEVICE_VARIABLES]
    backends = [f"{name} {_digest(_stamps([path]))}" for name, path in device_backends.libraries().items()]
    cpu = (platform.machine(), machine.cpu.model, *machine.cpu.isa)
    facts = (f"questions {PROBE_VERSION}", *cpu, *gpus, *variables, *backends)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _files_digest() -> str:
    return _digest(_stamps(library_files()))


def _stamps(paths: list[Path]) -> tuple[tuple[str, int, int], ...]:
    stamps = [(path, path.stat()) for path in paths]
    return tuple((str(path), stamp.st_size, stamp.st_mtime_ns) for path, stamp in stamps)


@functools.lru_cache(maxsize=8)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Of all bytes. Kept while the process lives: libraries with GPU code have gigabytes."""
    whole = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _probe(digest: str) -> tuple[Verdict, bool]:
    """What the throwaway process finds, and whether it will find the same tomorrow.

    That it is another library than the binding's, that it runs, or dies of an instruction or a fault, follows from
    library and CPU. That it found no memory or another library missing does not.
    """
    probed = probe_library("edgellm_gguf.probe", "the library", PROBE_TIMEOUT_S, ENVIRONMENT)
    try:
        answer = msgspec.json.decode(probed.answer, type=Answer)
    except (ValueError, TypeError):
        answer = Answer()
    if answer.loading and probed.problem:
        # The processor's part was answered in full: only GPUs are left out.
        rest = msgspec.convert({"problem": "", **msgspec.json.decode(probed.answer)}, Verdict)
        unloaded = {**rest.unloaded, **dict.fromkeys(answer.loading, probed.problem)}
        return replace(rest, library_sha256=digest, unloaded=unloaded), False
    if probed.signal:
        reason = "an instruction this CPU does not have" if probed.signal == "SIGILL" else "native code crashed"
        problem = f"{probed.problem} ({reason}): rebuild it on this machine"
        if answer.mismatch is not None:
            problem = f"{_refusal(answer.version, answer.mismatch)} ({probed.signal})"
        return Verdict(problem, library_sha256=digest), probed.signal in LASTING_SIGNALS
    if probed.problem:
        return Verdict(probed.problem, library_sha256=digest), False
    if answer.mismatch is not None:
        return Verdict(_refusal(answer.version, answer.mismatch), library_sha256=digest, version=answer.version), True
    try:
        verdict = msgspec.convert({"problem": "", **msgspec.json.decode(probed.answer)}, Verdict)
    except (ValueError, TypeError):
        problem = f"the library's probe answers nonsense: {probed.answer}"
        return Verdict(problem, library_sha256=digest), False
    # A driver that is missing today may be installed tomorrow.
    lasts = not verdict.unloaded and (not verdict.gpu_backends or bool(verdict.devices))
    return replace(verdict, library_sha256=digest), lasts


def _refusal(version: str, mismatch: Mismatch) -> str:
    binding = binding_release()
    return f"this libllama, of llama.cpp {version}, is not the one that llama-cpp-python {binding} needs: {mismatch}"
