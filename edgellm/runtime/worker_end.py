"""How a worker ended, in words and as an error."""

from __future__ import annotations

from edgellm.contract.child import End
from edgellm.errors import EdgeLLMError, WorkerCrashed


def died(reason: str) -> WorkerCrashed:
    return WorkerCrashed(f"the worker that runs the model died ({reason})", reason=reason)


def how_it_ended(end: End) -> str:
    if not end.signal:
        return f"left with status {end.returncode}"
    causes = {
        "SIGKILL": "by the out-of-memory killer, or by hand",
        "SIGILL": "an instruction this CPU does not have",
        "SIGSEGV": "a fault in native code",
        "SIGXCPU": "more processor time than a load may take",
        "SIGBUS": "a file that shrank while it was mapped, or a full disk",
    }
    return f"killed by {end.signal}" + (f": {causes[end.signal]}" if end.signal in causes else "")


def not_again(error: EdgeLLMError) -> WorkerCrashed:
    """Of a model that ran and does not load any more. Clients read it: `reason` and the log name files, it does not."""
    return WorkerCrashed(f"the model does not load again ({error.code})", hint=error.hint, reason=error.message)
