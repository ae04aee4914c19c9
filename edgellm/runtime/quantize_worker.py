"""Runs a backend's quantizer in a process of its own: `python -m edgellm.runtime.quantize_worker`.

The job goes in as one line of JSON. Lines come out: progress, then the outcome. The parent removes what a process that
died leaves behind.
"""

from __future__ import annotations

import msgspec

from edgellm.contract.answers import Fault, asked, hint_for
from edgellm.contract.backend import worker_environment
from edgellm.contract.child import Child, End
from edgellm.contract.data_limit import limit_data
from edgellm.contract.failed import Failed
from edgellm.contract.manager import plugins
from edgellm.contract.own_python import python
from edgellm.contract.parent import connect
from edgellm.contract.quantizer import Quantization, Quantizer, TensorProgress
from edgellm.errors import BackendError, EdgeLLMError, WorkerCrashed


class _Order(msgspec.Struct):
    backend: str
    job: Quantization


class _Writing(msgspec.Struct, tag=True):
    """From the worker: a tensor that is being written."""

    done: int
    total: int
    tensor: str


class _Written(msgspec.Struct, tag=True):
    """From the worker: the file is complete."""


_decoder = msgspec.json.Decoder(_Writing | _Written | Failed)


def quantize(backend: str, job: Quantization, progress: TensorProgress) -> None:
    """Run `job` in a process of its own and wait for it. The process ends with this call, however that ends.

    Raises:
        WorkerCrashed: native code died; what the backend raises (`edgellm.contract.quantizer.Quantizer.quantize`).
    """
    order = msgspec.json.encode(_Order(backend, job))
    environment = worker_environment(plugins().backends().get(backend))
    with Child(python("edgellm.runtime.quantize_worker"), question=order, env=environment) as child:
        for line in child.lines():
            match _decoder.decode(line):
                case _Writing() as step:
                    progress(step.done, step.total, step.tensor)
                case Failed() as failed:
                    raise failed.error()
                case _Written():
                    return
    raise _crashed(backend, child.end)


def _crashed(backend: str, end: End) -> EdgeLLMError:
    last = end.last_words
    said = f": {last}" if last else ""
    if not end.signal:
        message = f"the quantizer of backend {backend} ended its process with status {end.returncode}{said}"
        return WorkerCrashed(message, hint=hint_for(backend), reason=last)
    hint = (
        "free memory, or use fewer --threads"
        if end.signal == "SIGKILL"
        else f"run `edgellm doctor`; {hint_for(backend)}"
    )
    return WorkerCrashed(
        f"the quantizer of backend {backend} was killed by {end.signal}{said}", hint=hint, reason=end.signal
    )


def main() -> None:
    """Run one job and say what came of it."""
    import psutil

    line, tell = connect()
    limit_data(psutil.virtual_memory().available)  # it holds a tensor in full, of whatever size the file claims
    order = msgspec.json.decode(line, type=_Order)
    try:
        backend = plugins().backend(order.backend)
        if not isinstance(backend, Quantizer):
            raise BackendError(f"the {order.backend} backend does not quantize")
        asked(
            "quantize()",
            lambda: backend.quantize(order.job, lambda done, total, name: tell(_step(done, total, name))),
            lambda given: given is None,
            "None",
        )
        tell(_Written())
    except Fault as fault:
        tell(Failed.of(BackendError(f"backend {order.backend}: {fault}", hint=hint_for(order.backend))))
    except MemoryError:
        tell(Failed.of(BackendError("not enough memory to quantize")))
    except EdgeLLMError as error:
        tell(Failed.of(error))


def _step(done: object, total: object, tensor: object) -> _Writing:
    if not (isinstance(done, int) and isinstance(total, int) and isinstance(tensor, str)):
        raise TypeError(f"progress({done!r}, {total!r}, {tensor!r}): two numbers and a name are expected")
    return _Writing(done, total, tensor)


if __name__ == "__main__":
    main()
