"""Runs a backend's quantizer in a process of its own: `python -m edgellm.runtime.quantize_worker`.

The job goes in as one line of JSON, lines come out: progress, then the outcome. The end of stdin means that the parent
is gone: the process leaves at once, whatever the library is doing. What it leaves behind is the parent's to remove.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import IO

import msgspec

from edgellm.contract.manager import plugins
from edgellm.contract.quantizer import Progress, Quantization, Quantizer
from edgellm.errors import BackendError, EdgeLLMError, WorkerCrashed, by_code

_KEPT_LINES = 20  # of what the library wrote to stderr


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
    # -P: nothing is imported from the current folder. A session of its own, so that Ctrl-C reaches only us.
    command = [sys.executable, "-P", "-m", "edgellm.runtime.quantize_worker"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    said: list[str] = []
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    listener = threading.Thread(target=_listen, args=(child.stderr, said), daemon=True)
    listener.start()
    try:
        try:
            child.stdin.write(msgspec.json.encode(_Order(backend, job)) + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; the reason follows
        end = _follow(child.stdout, progress)
        if end is None:
            child.wait()
    finally:
        child.kill()
        child.wait()
        listener.join()
        for pipe_end in (child.stdin, child.stdout, child.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe_end.close()
    if end is None:
        raise _crashed(child.returncode, said)
    if end.error:
        raise by_code(end.error)(end.message, hint=end.hint)


def _follow(lines: IO[bytes], progress: Progress) -> _Line | None:
    """The last line; None where the process ended without one."""
    for raw in lines:
        line = msgspec.json.decode(raw, type=_Line)
        if line.ended:
            return line
        progress(line.done, line.total, line.tensor)
    return None


def _listen(stderr: IO[bytes], said: list[str]) -> None:
    for raw in stderr:
        said.append(raw.decode(errors="replace").strip())
        del said[:-_KEPT_LINES]


def _crashed(returncode: int, said: list[str]) -> EdgeLLMError:
    last = next((line for line in reversed(said) if line), "")
    if returncode >= 0:
        return WorkerCrashed(f"the quantizer ended with status {returncode}: {last}", reason=last)
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = "free memory, or use fewer --threads" if name == "SIGKILL" else "run `edgellm doctor`"
    return WorkerCrashed(f"the quantizer was killed by {name}{': ' + last if last else ''}", hint=hint, reason=name)


def main() -> None:
    """Run one job and say what came of it."""
    up = os.fdopen(os.dup(1), "wb", buffering=0)
    # Native code that prints must not break a line.
    os.dup2(2, 1)
    down = os.fdopen(0, "rb", buffering=0, closefd=False)
    order = msgspec.json.decode(down.readline(), type=_Order)
    threading.Thread(target=_leave_with_parent, args=(down,), daemon=True).start()

    def tell(line: _Line) -> None:
        try:
            up.write(msgspec.json.encode(line) + b"\n")
        except BrokenPipeError:
            os._exit(1)

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


def _leave_with_parent(down: IO[bytes]) -> None:
    down.read(1)
    os._exit(1)


if __name__ == "__main__":
    main()
