"""Compiles a backend for GPUs, tries it in a process of its own, and puts it where libllama takes it from."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgellm.contract.backend import Device
from edgellm.contract.child import ask
from edgellm.contract.device_build import BuiltDevices, DeviceBuild, StepProgress
from edgellm.errors import BackendUnavailable, DiskFull, UsageError
from edgellm.files import FULL, locked, require_room, write_atomic
from edgellm.settings import variables
from edgellm_gguf import device_backends, library
from edgellm_gguf.device_backends import Build
from edgellm_gguf.device_build import cuda, source, toolchain
from edgellm_gguf.device_build.command import Command, Said
from edgellm_gguf.device_build.plan import Recipe, configure, recipe, work_dir
from edgellm_gguf.pinned import pinned

CHECK_TIMEOUT_S = 120.0
_ROOM = "make room, or set EDGELLM_HOME to a larger disk; what was compiled is kept, and the same command goes on"


class _Seen(msgspec.Struct):
    """What a process that loaded the backend says."""

    devices: tuple[Device, ...] = ()
    complaints: tuple[str, ...] = ()


def compile_devices(planned: DeviceBuild, progress: StepProgress) -> BuiltDevices:
    """See `edgellm.contract.device_build.DeviceBuilder.build_devices`."""
    made = recipe(planned.api, planned.architectures)
    if planned.missing:
        raise BackendUnavailable(
            f"{planned.api} cannot be built here yet, without {'; '.join(planned.missing)}",
            hint="; ".join(planned.get) or "install what is named",
        )
    folder = work_dir()
    with _full_disk(folder), locked(folder / "setup.lock", _busy):
        require_room(
            folder, planned.disk_bytes, f"building for {planned.api}", hint="set EDGELLM_HOME to a larger disk"
        )
        started = time.monotonic()
        job = _Job(planned.api, made, folder, Command(folder / f"{planned.api}.log", progress))
        path = job.compile()
        seen = _tried(path)
        target = _put(path, planned.api, job.record(path, time.monotonic() - started))
        job.clean_up()
    problem = "" if seen.devices else "; ".join(seen.complaints) or "is its driver there?"
    return BuiltDevices(str(target), target.stat().st_size, time.monotonic() - started, seen.devices, problem)


@dataclass(slots=True)
class _Job:
    api: str
    made: Recipe
    folder: Path
    command: Command

    def compile(self) -> Path:
        """The library; what an earlier try compiled in the same way is used.

        Raises:
            SourceError: something cannot be fetched. BackendUnavailable: a compiler fails.
        """
        self.command.log.unlink(missing_ok=True)
        self.command.doing = "fetching the sources"
        sources = source.ggml(self.folder, self.command)
        environment = self.made.environment | {"PATH": source.tools(self.folder, self.command)}
        flags: tuple[str, ...] = ()
        if self.made.wheels:
            self.command.doing = "fetching the compiler"
            kept = device_backends.folder().parent / "cuda-13"
            source.cuda(kept, self.command)
            root = cuda.prepared(kept)
            environment["CUDACXX"] = str(root / "bin" / "nvcc")
            flags = (f"-DCUDAToolkit_ROOT={root}", f"-DCMAKE_INSTALL_RPATH={root / 'lib'}")
        for stale in self.folder.glob(f"{self.api}-*"):
            if stale != self.build_dir and stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
        self.command.doing = "looking at the compilers"
        self._run((*configure(self.made, sources, self.build_dir), *flags), environment)
        self.command.doing = "compiling"
        nice = ("nice",) if shutil.which("nice") else ()
        compile_it = ("cmake", "--build", str(self.build_dir), "--target", f"ggml-{self.api}", "-j", str(_jobs()))
        self._run((*nice, *compile_it), environment)
        return self.build_dir / "out" / device_backends.file_name(self.api)

    @property
    def build_dir(self) -> Path:
        key = repr((pinned().commit, self.made.settings, sorted(self._tools().items())))
        return self.folder / f"{self.api}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    def record(self, path: Path, seconds: float) -> Build:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Build(self.api, pinned().commit, digest, self.made.settings, self._tools(), round(seconds, 1))

    def clean_up(self) -> None:
        """Nothing of it is needed again."""
        shutil.rmtree(self.build_dir, ignore_errors=True)
        shutil.rmtree(self.folder / "tools", ignore_errors=True)

    def _tools(self) -> dict[str, str]:
        programs = [toolchain.compiler() or "", *self.made.compilers]
        return {program: toolchain.version(program) for program in programs if program}

    def _run(self, command: tuple[str, ...], environment: dict[str, str]) -> None:
        """
        Raises:
            BackendUnavailable, OSError.
        """
        said = self.command.run(command, environment)
        if said.status:
            raise self._failure(said)

    def _failure(self, said: Said) -> Exception:
        if said.is_of_full_disk:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return BackendUnavailable(
            f"{self.api} could not be compiled: {said.cause()}",
            hint=f"the whole log: {self.command.log}; the build for the processor is as it was",
        )


def _jobs() -> int:
    """Compilers at the same time: one for each processor that is ours."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tried(path: Path) -> _Seen:
    """What it sees, loaded beside libllama where it may die.

    Raises:
        BackendUnavailable: it does not load.
    """
    answer, end = ask(
        "edgellm_gguf.device_build.check", str(path),
        timeout_s=CHECK_TIMEOUT_S, env={**library.ENVIRONMENT, **variables()},
    )  # fmt: skip
    if end.returncode or end.timed_out:
        why = f"it dies of {end.signal}" if end.signal else end.last_words or "it does not answer"
        raise BackendUnavailable(
            f"{path.name} was compiled and does not load: {why}", hint="the backend of before, if any, stays in use"
        )
    return msgspec.json.decode(answer, type=_Seen)


def _put(path: Path, api: str, record: Build) -> Path:
    """In the place of the former one: a reader sees the old file or the new one, never a part."""
    target = device_backends.folder() / api / device_backends.file_name(api)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, path.read_bytes(), sync=True)
    write_atomic(target.parent / device_backends.RECORD, msgspec.json.encode(record))
    return target


def _busy() -> None:
    raise UsageError(
        "another `edgellm gpu setup` is at work", hint="wait until it ends; what it builds is for this one, too"
    )


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """
    Raises:
        DiskFull, and what is raised within.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise BackendUnavailable(f"{folder}: {error.strerror or error}", hint="check its permissions") from error
        raise DiskFull(f"the disk of {folder} is full", hint=_ROOM) from error
