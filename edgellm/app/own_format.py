"""Backends with a format that the core does not know: `edgellm run NAME`, `edgellm run PATH --backend NAME`, and
`edgellm run PATH` where a backend recognizes its files (`Recognizer`).

No catalog and no header that the core reads says anything of such a model, so it is named, and nothing is chosen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edgellm.app import context as app_context
from edgellm.app import file_plan
from edgellm.app.named_file import named_file
from edgellm.contract import answers
from edgellm.contract.backend import RECOGNIZED_BY, Backend, Recognizer
from edgellm.contract.manager import plugins
from edgellm.errors import (
    BackendUnavailable,
    BadArtifact,
    EdgeLLMError,
    UnknownModel,
    UnsupportedArtifact,
    option,
)
from edgellm.files import expanded, files_below, open_named
from edgellm.selection.scenario import threads_of
from edgellm.types.model import Artifact
from edgellm.types.model_reason import ModelNamed
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.reason import Threads
from edgellm.types.request import SelectionRequest

ECHO_CTX = 4096
KNOWN_FORMATS = frozenset({"gguf", "onnx", "safetensors"})  # `catalog.identify` finds these


def artifact(backend: str | None) -> Artifact | None:
    """What the backend of that name opens without a file. None where there is no such backend, or it opens none so.

    Raises:
        BackendError: it does not say that as it must.
    """
    named = plugins().backends().get(backend or "")
    return None if named is None else _asked(named)[0]


def _asked(backend: Backend, path: str = "") -> tuple[Artifact | None, list[str]]:
    """What lies at `path` (nothing, without one) in the first of its own formats that the backend opens it in; or why
    it opens it in none."""
    refused = list[str]()
    for own in sorted(backend.formats - KNOWN_FORMATS):
        candidate = _artifact(own, path) if path else Artifact(own, (), backend.name)
        problems = answers.answer(backend, "supports", candidate)
        if not problems:
            return candidate, []
        refused += problems
    return None, list(dict.fromkeys(refused))


def _artifact(own: str, path: str) -> Artifact:
    where = Path(path)
    n_bytes = sum(files_below(where).values()) if where.is_dir() else where.stat().st_size
    return Artifact(own, (path,), where.stem, bytes=n_bytes)


def is_own(artifact: Artifact) -> bool:
    """Whether it is in a format that only a plugin knows."""
    return artifact.format not in KNOWN_FORMATS


def opened_by(artifact: Artifact, backend: str | None) -> str:
    """Which backends have its format, of which plugins, and what they have against it."""
    told = []
    for name, one in plugins().backends().items():
        if artifact.format in one.formats and backend in (None, name):
            reasons = "; ".join(answers.supports(one, artifact))
            opens = f"does not open it: {reasons}" if reasons else "opens it"
            told.append(f"backend {name} of {answers.plugin_of(name)} {opens}")
    return "; ".join(told)


def _with_own_formats() -> list[str]:
    backends = plugins().backends().items()
    return [name for name, backend in backends if name != "echo" and backend.formats - KNOWN_FORMATS]


@contextlib.contextmanager
def told_of_address() -> Iterator[None]:
    """Of an address only GGUF files are read: that of another format names the way on."""
    try:
        yield
    except BadArtifact as error:
        if others := _with_own_formats():
            named = f"give its path with {option('backend')} ({', '.join(others)}), or write a catalog row"
            error.hint += f"; if it is in another format, download it and {named}"
        raise


def identified(path: str, backend: str | None = None) -> Artifact:
    """What lies at `path`; where the core knows no such format, as the backend that was asked for opens it, or as the
    first, by name, that recognizes it.

    Raises:
        UsageError, BackendUnavailable: there is no such backend. UnsupportedArtifact: it does not open this. Others: as
        `named_file`.
    """
    try:
        return named_file(path)
    except (BadArtifact, UnknownModel) as error:
        # A backend that is not there is what is wrong, and not the file.
        if backend is not None and (own := _as_asked(plugins().backend(backend), path, error)) is not None:
            return own
        recognized, faults = _recognized(path)
        if recognized is not None:
            if backend is not None and recognized.format not in plugins().backend(backend).formats:
                told = f"backend {backend!r} cannot open {path}: it is a model in {recognized.format}"
                raise UnsupportedArtifact(told, hint=f"leave {option('backend')} out") from None
            return recognized
        if backend is None and isinstance(error, BadArtifact):
            if others := _with_own_formats():
                which = f"{option('backend')}: {', '.join(others)}"
                error.hint += f"; of another format, say which backend opens it ({which})"
            error.hint += plugins().suspects("register_backends")
        error.hint += "".join(f"; {fault}" for fault in faults)
        raise


def _as_asked(backend: Backend, path: str, error: BadArtifact | UnknownModel) -> Artifact | None:
    """As the backend that was named opens it; where it does not, it says why, as what `identify` says is of others."""
    own, refused = _asked(backend, path) if os.path.exists(path) else (None, [])
    if refused:
        reasons, formats = "; ".join(refused), ", ".join(sorted(backend.formats - KNOWN_FORMATS))
        if backend.formats.isdisjoint(KNOWN_FORMATS):
            hint = f"give a model in {formats}, which it opens"
            raise UnsupportedArtifact(f"backend {backend.name!r} cannot open {path}: {reasons}", hint=hint) from None
        error.message += f", and backend {backend.name} does not open it as {formats}: {reasons}"
    return own


def _recognized(path: str) -> tuple[Artifact | None, list[str]]:
    """As the first backend says that knows it; and of those that answered otherwise than they must, how."""
    where, begin, faults = expanded(path), b"", list[str]()
    if not os.path.isdir(where):
        try:
            with open_named(where) as file:
                begin = file.read(RECOGNIZED_BY)
        except (OSError, ValueError):
            return None, []
    for backend in plugins().backends().values():
        if isinstance(backend, Recognizer):
            try:
                own = answers.answer(backend, "recognizes", str(where), begin)
            except EdgeLLMError as error:
                faults.append(_told(backend.name, answers.fault_in(error)))
                continue
            own_formats = backend.formats - KNOWN_FORMATS
            if own in own_formats:
                return _artifact(own, str(where)), []
            if own:
                expected = f"{', '.join(sorted(own_formats)) or 'no format of its own'} or '' is expected"
                fault = answers.Fault(f"recognizes() gives {own!r:.80}, {expected}")
                answers.blamed(backend.name, fault)
                faults.append(_told(backend.name, str(fault)))
    return None, faults


def _told(backend: str, fault: str) -> str:
    return f"backend {backend} of {answers.plugin_of(backend)} might know it, but {fault}"


def plan(artifact: Artifact, backend: str, request: SelectionRequest) -> LaunchPlan:
    """The plan for a backend that needs no file, with its usual settings.

    Raises:
        UnsupportedArtifact: it does not run here. Others: as `file_plan.unpredicted_plan`.
    """
    request = replace(request, backend=backend)
    return file_plan.unpredicted_plan(artifact, file_plan.opened(app_context.here(), artifact, request), request)


def echo_plan(request: SelectionRequest) -> LaunchPlan:
    """
    Raises:
        BackendUnavailable: a variable of its own means nothing. UsageError: more threads than processors.
    """
    from edgellm.hardware.probe import probe

    machine, asked = probe(measure=False), request.threads
    if problems := answers.check(plugins().backend("echo"), machine):
        raise BackendUnavailable(f"the echo backend cannot run: {problems[0]}", hint="mend or unset it")
    threads = 1 if asked is None else threads_of(machine, request)
    run = Settings(request.ctx or ECHO_CTX, request.slots or 1, threads, threads)
    told = () if asked is None else (Threads(threads, asked=True),)
    return LaunchPlan("echo", Artifact("echo", (), "echo"), run, (ModelNamed("echo", "echo"), *told))
