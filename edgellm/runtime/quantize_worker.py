"""Runs a backend's quantizer in a process of its own: `python -m edgellm.runtime.quantize_worker`.

The job goes in as one line of JSON. Lines come out: progress, then the outcome. The parent removes what a process that
died leaves behind.
"""

from __future__ import annotations

import msgspec

from edgellm.contract.child import Child, End, connect, python
from edgellm.contract.manager import plugins
from edgellm.contract.quantizer import Progress, Quantization, Quantizer
from edgellm.errors import BackendError, EdgeLLMError, WorkerCrashed, by_code


class _Order(msgspec.Struct):
    backend: str
    job: Quantization


class _Line(msgspec.Struct, omit_defaults=True):
    """One line from the worker: a tensor that is being written, or the end."""

    done: int = 0
    total: int = 0
    tensor: str = ""
    ended: bool = False
    error: str = ""  # `EdgeLLMError.code`; "" = it is written
    message: str = ""
    hint: str = ""


def quantize(backend: str, job: Quantization, progress: Progress) -> None:
    """Run `job` in a process of its own and wait for it. The process ends with this call, however that ends.

    Raises:
        WorkerCrashed: native code died; what the backend raises (`edgellm.contract.quantizer.Quantizer.quantize`).
    """
    order = msgspec.json.encode(_Order(backend, job))
    outcome = None
    with Child(python("edgellm.runtime.quantize_worker"), question=order) as child:
        for raw in child.lines():
            line = msgspec.json.decode(raw, type=_Line)
            if line.ended:
                outcome = line
                break
            progress(line.done, line.total, line.tensor)
    if outcome is None:
        raise _crashed(child.end)
    if outcome.error:
        raise by_code(outcome.error)(outcome.message, hint=outcome.hint)


def _crashed(end: End) -> EdgeLLMError:
    last = end.last_words
    if not end.signal:
        return WorkerCrashed(f"the quantizer ended with status {end.returncode}: {last}", reason=last)
    hint = "free memory, or use fewer --threads" if end.signal == "SIGKILL" else "run `edgellm doctor`"
    message = f"the quantizer was killed by {end.signal}{': ' + last if last else ''}"
    return WorkerCrashed(message, hint=hint, reason=end.signal)


def main() -> None:
    """Run one job and say what came of it."""
    line, tell = connect()
    order = msgspec.json.decode(line, type=_Order)
    try:
        backend = plugins().backend(order.backend)
        if not isinstance(backend, Quantizer):
            raise BackendError(f"the {order.backend} backend does not quantize")
        backend.quantize(order.job, lambda done, total, name: tell(_Line(done, total, name)))
    except MemoryError:
        tell(_Line(ended=True, error=BackendError("").code, message="not enough memory to quantize", hint=""))
    except EdgeLLMError as error:
        tell(_Line(ended=True, error=error.code, message=error.message, hint=error.hint))
    else:
        tell(_Line(ended=True))


if __name__ == "__main__":
    main()
