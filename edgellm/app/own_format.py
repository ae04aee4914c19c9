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
from edgellm.contract.backend import RECOGNIZED_BY, Recognizer
from edgellm.contract.manager import plugins
from edgellm.errors import BackendUnavailable, BadArtifact, EdgeLLMError, UnknownModel, option
from edgellm.files import expanded, open_named
from edgellm.selection.scenario import threads_of
from edgellm.types.model import Artifact
from edgellm.types.model_reason import ModelNamed
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.reason import Threads
from edgellm.types.request import SelectionRequest

ECHO_CTX = 4096
KNOWN_FORMATS = frozenset({"gguf", "onnx", "safetensors"})  # `catalog.identify` finds these


def artifact(backend: str | None, path: str = "") -> Artifact | None:
    """What the backend of that name opens in a format of its own: what lies at `path`, or, without one, no file at all.

    None where there is no such backend, or where it says that it does not open this.

    Raises:
        BackendError: it does not say that as it must.
    """
    named = plugins().backends().get(backend or "")
    if named is None or (path and not Path(path).exists()):
        return None
    paths, model = ((path,), Path(path).stem) if path else ((), named.name)
    candidates = (Artifact(own, paths, model) for own in sorted(named.formats - KNOWN_FORMATS))
    return next((candidate for candidate in candidates if not answers.answer(named, "supports", candidate)), None)


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


def identified(path: str, backend: str | None) -> Artifact:
    """What lies at `path`; where the core knows no such format, as the backend that was asked for opens it, or as the
    first, by name, that recognizes it.

    Raises:
        UsageError, BackendUnavailable: there is no such backend. Others: as `named_file`.
    """
    try:
        return named_file(path)
    except (BadArtifact, UnknownModel) as error:
        if backend is None:
            recognized, faults = _recognized(path)
            if recognized is not None:
                return recognized
            if isinstance(error, BadArtifact):
                if others := _with_own_formats():
                    which = f"{option('backend')}: {', '.join(others)}"
                    error.hint += f"; of another format, say which backend opens it ({which})"
                error.hint += plugins().suspects("register_backends")
            error.hint += "".join(f"; {fault}" for fault in faults)
            raise
        plugins().backend(backend)  # one that is not there is what is wrong, and not the file
        own = artifact(backend, path)
        if own is None:
            raise
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
                return Artifact(own, (str(where),), where.stem), []
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
