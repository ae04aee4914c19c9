"""How a worker ended, in words and as an error."""

from __future__ import annotations

from edgellm.contract.child import End
from edgellm.errors import EdgeLLMError, RunawayModel, WorkerCrashed
from edgellm.runtime.engine_error import named, with_plugin

# Signals that end a worker, by what took too much processor time there (`runtime.processor_time`).
COMPUTES, READS_TEXT, READS_GRAMMAR = "SIGXCPU", "SIGVTALRM", "SIGPROF"

_CAUSES = {
    "SIGKILL": "by the out-of-memory killer, or by hand",
    "SIGILL": "an instruction this CPU does not have",
    "SIGSEGV": "a fault in native code",
    "SIGABRT": "native code gave up, as where a file breaks its assumptions or memory is short",
    "SIGBUS": "a file that shrank while it was mapped, or a full disk",
    COMPUTES: "a load or a step took far more processor time than a model of this size takes",
    READS_TEXT: "its tokenizer took far more processor time than texts of this length take",
    READS_GRAMMAR: "a grammar took more processor time than any may take",
}

# What may help. "" = memory, which the supervisor says where it fits, or nobody's fault: somebody ended the worker.
_OTHER = "take another file of the model, or another backend: the file or {backend} is at fault"
# Of a status nothing is known: it ended itself.
_UNKNOWN = "read what it wrote to standard error, as {backend} or the model file may be at fault"
_CURES = {
    **dict.fromkeys(("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"), ""),
    "SIGSEGV": _OTHER,
    "SIGFPE": _OTHER,
    "SIGTRAP": _OTHER,
    "SIGILL": "take another backend, or a build of {backend} for this processor (`edgellm doctor`)",
    "SIGBUS": "look for a disk that is full, or fetch the file again",
    READS_GRAMMAR: "ask for a simpler grammar or schema",
    "SIGABRT": "look for memory that is short, or take another file of the model: it or {backend} may be at fault",
}


def died(reason: str, hint: str = "") -> WorkerCrashed:
    return WorkerCrashed(f"the worker that runs the model died ({reason})", hint=hint, reason=reason)


def at_fault(backend: str) -> str:
    """What to do where it is the backend's doing or the model file's."""
    return _OTHER.format(backend=with_plugin(backend))


def ended(end: End, backend: str) -> WorkerCrashed:
    """The error of a worker that ended without a word."""
    if end.signal not in (COMPUTES, READS_TEXT):
        return died(how_it_ended(end), _CURES.get(end.signal, _UNKNOWN).format(backend=with_plugin(backend)))
    fault = f"the model's files or {named(backend)} is at fault"
    return RunawayModel(
        f"the worker that runs the model was ended: {fault} ({_CAUSES[end.signal]})",
        hint=f"take this model from a source that you trust, take another model, or do without {with_plugin(backend)}",
        reason=how_it_ended(end),
    )


def how_it_ended(end: End) -> str:
    if not end.signal:
        return f"left with status {end.returncode}"
    return f"killed by {end.signal}" + (f": {_CAUSES[end.signal]}" if end.signal in _CAUSES else "")


def not_again(error: EdgeLLMError) -> WorkerCrashed:
    """Of a model that ran and does not load any more. Clients read it: `reason` and the log name files, it does not."""
    return WorkerCrashed(f"the model does not load again ({error.code})", hint=error.hint, reason=error.message)
