"""Makes the planned file. The quantizer runs in a process of its own; its file is complete and checked, or removed."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edgellm import settings
from edgellm.app.quantize.plan import Plan
from edgellm.app.quantize.preflight import exists
from edgellm.contract.answers import hint_for
from edgellm.contract.quantizer import Quantization
from edgellm.errors import ArtifactError, BackendError, UsageError
from edgellm.files import locked, rename_new, safe_name, sync
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufModel
from edgellm.runtime import quantize_worker
from edgellm.store.library import TWICE, Library
from edgellm.types.model import ModelFile

WriteProgress = Callable[[float, str], None]  # share that is done, what is being written


@dataclass(frozen=True, slots=True)
class Made:
    path: Path
    bytes: int
    tensor_bytes: int
    seconds: float
    name: str = ""  # what `edgellm serve` finds it by; "" = its path


def make(planned: Plan, progress: WriteProgress = lambda _share, _what: None) -> Made:
    """Quantize, check what was written against the plan, and give it its name. An incomplete file is removed.

    Raises:
        WorkerCrashed, BackendError: the quantizer failed, or wrote something else. DiskFull.
        UsageError: another process makes the same file, or the target came up meanwhile.
    """
    started = time.monotonic()
    library = Library()
    folder = library.root / safe_name(planned.source.card.id) if planned.output is None else planned.output.parent
    with alone(planned.output or folder / planned.quant):
        # We hold the lock, so the process that left this folder is gone.
        work = folder / f".{planned.output.name if planned.output else planned.quant}.quantizing"
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir(parents=True)
            target = work / (
                planned.output.name if planned.output else f"{planned.source.card.id}.{planned.quant}.gguf"
            )
            _write(planned, target, progress)
            content = _verified(planned, target)
            progress(1.0, "storing")
            path = _keep(planned, library, target)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}", hint="choose another --output") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    name = f"{planned.source.card.id}:{planned.quant}" if planned.source.in_catalog else ""
    return Made(path, content.file_bytes, content.tensor_bytes, time.monotonic() - started, name)


def _write(planned: Plan, target: Path, progress: WriteProgress) -> None:
    sizes = [math.prod(p.tensor.dims) for p in planned.file.tensors]
    done = [0]
    for size in sizes:
        done.append(done[-1] + size)

    def report(index: int, total: int, name: str) -> None:
        share = done[index] / done[-1] if total == len(sizes) else index / max(1, total)
        progress(share, f"{name} ({index + 1} of {total})")

    job = Quantization(
        planned.source.artifact,
        str(target),
        planned.quant,
        planned.n_threads,
        planned.imatrix,
        planned.requantizes,
    )
    quantize_worker.quantize(planned.backend, job, report)


def _verified(planned: Plan, target: Path) -> GgufModel:
    """The written file, read again: every tensor there, of the type and size that were predicted.

    Raises:
        BackendError: something else was written, or no sound GGUF file.
    """
    try:
        content = reader.read_model(target)
    except ArtifactError as error:
        what = f"what the quantizer of backend {planned.backend} wrote is no sound GGUF file: {error.message}"
        raise BackendError(what, hint=hint_for(planned.backend)) from error
    actual = {tensor.name: (tensor.dims, tensor.type.name) for tensor in content.tensors}
    # Which type a quantization of a plugin gives to a tensor is its own to know.
    own = {name: kind for name, (_, kind) in actual.items()} if planned.file.like else {}
    expected = {p.tensor.name: (p.tensor.dims, own.get(p.tensor.name, p.type)) for p in planned.file.tensors}
    if actual != expected:
        wrong = sorted(name for name in expected | actual if expected.get(name) != actual.get(name))
        one = wrong[0]
        raise BackendError(
            f"{planned.backend} wrote {len(wrong)} tensors otherwise than predicted: {one} is {actual.get(one)}, "
            f"{expected.get(one)} was expected",
            hint="its library's rules differ from those of llama.cpp b11434; please report it",
        )
    keys = {key for key in planned.source.content.header.metadata if not key.startswith("split.")}
    missing = sorted(keys - set(content.header.metadata))
    if missing:
        raise BackendError(f"{planned.backend} left out {len(missing)} keys, the first is {missing[0]}")
    return content


def _keep(planned: Plan, library: Library, path: Path) -> Path:
    if planned.output is None:
        return Path(library.keep(planned.source.card, planned.model_file, path).path)
    sync(path)
    if planned.replace:
        os.replace(path, planned.output)
    else:
        try:
            rename_new(path, planned.output)
        except FileExistsError:
            raise exists(planned.output) from None
    library.forget(planned.output)
    if planned.source.in_catalog and planned.made_of.startswith(TWICE):
        library.keep(planned.source.card, planned.model_file, planned.output, elsewhere=True)
    elif planned.source.in_catalog:
        size = planned.output.stat().st_size
        library.fetch(planned.source.card, ModelFile(f"file:{quote(str(planned.output))}", planned.quant, bytes=size))
    return planned.output


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold the lock of what is being made, against other processes of this user."""

    def busy() -> None:
        raise UsageError(f"{target} is being made by another process", hint="wait for it")

    name = hashlib.sha256(str(target).encode()).hexdigest()[:32]
    with locked(settings.current().cache_dir / "locks" / f"{name}.lock", busy):
        yield
