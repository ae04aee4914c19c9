"""What the installed onnxruntime is and has; nothing here imports it.

Asked once of a throwaway process, and kept by the library's version and files and by the processor.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgellm import settings
from edgellm.files import write_atomic

PROBE_TIMEOUT_S = 60.0
PROBE_VERSION = 1  # of the questions: answers to others are not used


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problem` is empty where the library runs."""

    problem: str = ""
    version: str = ""
    providers: tuple[str, ...] = ()  # "CPUExecutionProvider"
    opset: int = 0  # newest operator set of ONNX's own that it runs
    operators: dict[str, frozenset[str]] = field(default_factory=dict)  # domain -> names


def installed() -> str:
    """Version of the package; "" = there is none."""
    if importlib.util.find_spec("onnxruntime") is None:
        return ""
    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def build() -> str:
    """Names the library's code: version, and a digest of what the files are."""
    return f"onnxruntime {installed() or 'none'} ({_digest()[:8]})"


def verdict() -> Verdict:
    """The kept answer of the probe; probes when there is none (half a second, once)."""
    if not installed():
        return Verdict("onnxruntime is not installed: pip install onnxruntime")
    kept = settings.cache_dir() / "onnx-probe" / f"{_digest()[:24]}.json"
    known = _read(kept)
    if known is None:
        known, lasting = _probe()
        if lasting:
            _keep(kept, msgspec.json.encode(known))
    return known


@functools.cache
def _digest() -> str:
    """Of names, sizes and times of the native files, and the processor: hundreds of megabytes are not read for it."""
    spec = importlib.util.find_spec("onnxruntime")
    files = sorted(Path(spec.origin).parent.joinpath("capi").glob("*.*")) if spec is not None and spec.origin else []
    facts = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.is_file()]
    facts += [f"questions {PROBE_VERSION}", platform.machine(), platform.processor(), str(installed())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _probe() -> tuple[Verdict, bool]:
    """What the throwaway process finds, and whether it will find the same tomorrow."""
    # -P: nothing is imported from the current folder, which may hold a stranger's files.
    command = [sys.executable, "-P", "-m", "edgellm_onnx.probe"]
    try:
        run = subprocess.run(
            command, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Verdict(f"onnxruntime did not answer within {PROBE_TIMEOUT_S:.0f} s"), False
    if run.returncode < 0:
        name = signal.Signals(-run.returncode).name
        return Verdict(f"onnxruntime dies of {name} here: install one for this processor"), name == "SIGILL"
    said = run.stdout if run.returncode == 0 else run.stderr
    last = (said.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
    if run.returncode:
        return Verdict(f"onnxruntime does not load: {last}"), False
    try:
        return msgspec.json.decode(last, type=Verdict), True
    except (ValueError, TypeError):
        return Verdict(f"onnxruntime's probe answers nonsense: {last[:200]}"), False


def _read(kept: Path) -> Verdict | None:
    try:
        return msgspec.json.decode(kept.read_bytes(), type=Verdict)
    except (OSError, ValueError):
        return None


def _keep(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError:
        # A read-only cache costs a probe per start, nothing else.
        return
