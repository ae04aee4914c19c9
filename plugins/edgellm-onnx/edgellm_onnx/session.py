"""Makes onnxruntime sessions: threads, memory, providers, and what to do where a provider does not start."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from edgellm.errors import BackendUnavailable, BadArtifact, UnsupportedArtifact, option
from edgellm.types.plan import Settings
from edgellm_onnx.options import Options
from edgellm_onnx.providers import CPU, PROVIDERS, Choice

log = logging.getLogger("edgellm.onnx")

onnxruntime.disable_telemetry_events()  # on Windows, where it looks at no variable (see `edgellm_onnx`)

LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
LEAST_SHARE = 0.5  # of a graph's operators, that a provider must compute to be called its provider
_SOURCE = re.compile(r"^.*(?:\[ONNXRuntimeError\] : |\[ERROR\] )")  # file and function, before the words
MOST_HEARD = 64 * 1024  # bytes of a library's log
OUT_OF_MEMORY = ("bad allocation", "bad_alloc", "failed to allocate memory", "cannot allocate memory")
UNSUPPORTED = ("not implemented", "opset", "is not a registered function", "no such operator", "ir_version")


@dataclass(frozen=True, slots=True)
class Opened:
    session: onnxruntime.InferenceSession
    provider: str  # as onnxruntime names the one that comes first
    reason: str
    memory: str = ""  # where caches lie, as in `Choice.memory`
    nodes: str = ""  # how many of the graph's it computes; "" = all, on the CPU


def session_options(settings: Settings, options: Options) -> onnxruntime.SessionOptions:
    """One pool of threads for steps of every size: onnxruntime has no second one for prompts."""
    native = onnxruntime.SessionOptions()
    native.intra_op_num_threads = max(settings.n_threads, settings.n_threads_batch)
    native.inter_op_num_threads = 1
    native.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    native.graph_optimization_level = LEVELS[options.optimize]
    # Memory would be planned for every shape of inputs, and the plans kept: nothing was won by it, and they pile up.
    native.enable_mem_pattern = False
    native.log_severity_level = 0 if log.isEnabledFor(logging.DEBUG) else 4  # what fails is raised, and told by us
    native.add_session_config_entry("session.intra_op.allow_spinning", "0" if options.spin == "never" else "1")
    native.add_session_config_entry("session.force_spinning_stop", "1" if options.spin == "step" else "0")
    if options.prepack == "off":
        native.add_session_config_entry("session.disable_prepacking", "1")
    return native


def open_session(graph: Path, settings: Settings, options: Options, choice: Choice) -> Opened:
    """
    Raises:
        BadArtifact, UnsupportedArtifact: onnxruntime refuses the graph.
        BackendUnavailable: no memory, or the plan counts on a provider that does not compute it.
    """
    native = session_options(settings, options)
    if choice.problem:
        _instead(choice, choice.problem)
    if choice.providers != (CPU,):
        native.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        messages: list[str] = []
        try:
            with overhearing(messages):
                load_vendor_libraries(choice.providers[0])
                session = _session(graph, native, choice.with_options)
        except Exception as error:
            # Whatever a vendor's library raises: the same graph on the CPU tells whether the graph is to blame.
            problem = f"{choice.providers[0]} does not start ({words(error)})"
            _instead(choice, problem)
            choice = Choice((CPU,), f"the CPU, because {problem}", problem)
        else:
            return _started(session, choice, messages)
    with refusing(f"{graph} cannot be opened"):
        return Opened(_session(graph, native, (CPU,)), CPU, choice.reason)


def _instead(choice: Choice, problem: str) -> None:
    """The CPU takes the place of what was asked for, and the log says so; not of what a plan counts on."""
    if choice.planned:
        raise BackendUnavailable(
            problem, hint=f"{option('gpu_layers', 0)} plans for the CPU; `edgellm doctor` says what is installed"
        )
    log.error("%s; computing on the CPU instead", problem)


def _started(session: onnxruntime.InferenceSession, choice: Choice, messages: list[str]) -> Opened:
    """The session, if the provider that was wanted computes it: else onnxruntime goes on and is silent."""
    provider, first = choice.providers[0], session.get_providers()[0]
    if first != provider:
        cause = f" ({messages[0]})" if messages else ""
        problem = f"{provider} did not start{cause}; onnxruntime took {first}"
        if choice.planned:
            _instead(choice, problem)
        log.error("%s", problem)
        return Opened(session, first, problem)
    nodes = assigned(session)
    own, total = nodes[provider], sum(nodes.values())
    told = f"{own} of {total} operators" if total else "onnxruntime does not say which operators"
    if total and own < total * LEAST_SHARE:
        others = ", ".join(f"{name} {count}" for name, count in nodes.items() if name != provider)
        problem = f"{provider} computes only {told} of this graph ({others})"
        if choice.planned:
            _instead(choice, problem)
        log.error("%s", problem)
    return Opened(session, first, choice.reason, choice.memory, told)


def assigned(session: onnxruntime.InferenceSession) -> collections.Counter[str]:
    """Operators by the provider that computes them; none where the library does not tell."""
    nodes: collections.Counter[str] = collections.Counter()
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    for part in () if tell is None else tell():
        nodes[part.ep_name] += len(part.get_nodes())
    return nodes


def _session(
    graph: Path, options: onnxruntime.SessionOptions, providers: tuple[str | tuple[str, dict[str, str]], ...]
) -> onnxruntime.InferenceSession:
    # Without the last argument a provider that fails, now or in a step, would be replaced behind our back.
    return onnxruntime.InferenceSession(str(graph), options, providers=list(providers), enable_fallback=0)


def load_vendor_libraries(provider: str) -> None:
    """CUDA's libraries may lie in wheels beside onnxruntime, where no loader looks."""
    preload = getattr(onnxruntime, "preload_dlls", None)
    if provider == PROVIDERS["cuda"].library and preload is not None:
        with contextlib.redirect_stdout(sys.stderr):
            preload()


@contextlib.contextmanager
def overhearing(messages: list[str]) -> Iterator[None]:
    """Collects why a provider's library does not load: onnxruntime only logs that, and goes on without it."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            text = file.read(MOST_HEARD).decode("utf-8", "replace")
            # A line is [E:onnxruntime:Default, file.cc:12 Function] in colours, then the words. Errors before warnings.
            lines = sorted(re.findall(r"\[([EW]):onnxruntime:.*?\] (.*?)(?:\x1b|$)", text, re.MULTILINE))
            messages += [_SOURCE.sub("", line).strip()[:400] for _, line in lines if line.strip()]


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turns what onnxruntime raises into errors of ours."""
    try:
        yield
    except Exception as error:
        said = words(error)
        lower = said.lower()
        if ran_out(error):
            raise BackendUnavailable(
                f"{what}: no memory ({said})", hint=f"ask for less with {option('ctx')} or {option('slots')}"
            ) from error
        kind = UnsupportedArtifact if any(mark in lower for mark in UNSUPPORTED) else BadArtifact
        raise kind(f"{what}: {said}", hint="`edgellm doctor` names the onnxruntime in use") from error


def ran_out(error: Exception) -> bool:
    """Whether the library had no memory, of the machine or of what a load may take (`load_limit`)."""
    return isinstance(error, MemoryError) or any(mark in str(error).lower() for mark in OUT_OF_MEMORY)


def words(error: Exception) -> str:
    """The first line of a message, without the library's source file."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0].removeprefix('[ONNXRuntimeError] : ')[:400]}"
