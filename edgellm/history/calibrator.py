"""Runs a backend's kernels in a process of its own, which may die of them: `python -m edgellm.history.calibrator`.

The child is told a backend and numbers of threads, and answers with one line of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import statistics
import subprocess
import sys

import msgspec

from edgellm.contract.backend import Calibrator, worker_environment
from edgellm.contract.manager import plugins
from edgellm.errors import BackendUnavailable, WorkerCrashed
from edgellm.types.calibration import Calibration
from edgellm.types.plan import Settings

TIMEOUT_S = 180.0
SLOWER_THAN_ONE = 0.95  # of the rate of one thread


class _Answer(msgspec.Struct):
    """A Calibration whose tables are lists: JSON has no pairs as keys."""

    tables: dict[str, list[tuple[list[str | int], float]]]
    scatter: float


def measure(backend: str, threads: int) -> Calibration:
    """Rates of an installed backend at one thread and at `threads`.

    Raises:
        BackendUnavailable: the backend cannot measure itself, or not now.
        WorkerCrashed: its process died.
    """
    found = plugins().backend(backend)
    if not isinstance(found, Calibrator):
        raise BackendUnavailable(f"backend {backend} does not measure itself", hint="its speeds are predicted")
    # -P: nothing is imported from the current folder, which may hold a stranger's files.
    command = [sys.executable, "-P", "-m", "edgellm.history.calibrator", backend, str(threads)]
    try:
        run = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL,
            env=worker_environment(found),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WorkerCrashed(
            f"measuring {backend} took longer than {TIMEOUT_S:.0f} s and was ended",
            hint="try again when the machine has less to do",
        ) from None
    lines = run.stderr.decode(errors="replace").strip().splitlines()
    if run.returncode < 0:
        name = _signal_name(-run.returncode)
        hint = "try again with more free memory" if name == "SIGKILL" else "run `edgellm doctor`"
        raise WorkerCrashed(f"measuring {backend} died of {name}; what was stored stays", hint=hint, reason=name)
    if run.returncode:
        raise BackendUnavailable(f"{backend} cannot be measured: {lines[-1] if lines else 'no reason given'}")
    answer = msgspec.json.decode(run.stdout, type=_Answer)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return dataclasses.replace(_from_answer(answer), build=found.build(), date=day)


def believable(found: Calibration) -> tuple[Calibration, tuple[int, ...]]:
    """Without the numbers of threads that were slower than one, and those numbers.

    Threads wait for each other: beside a program that has a processor for itself, two are slower than one by far.
    """
    slow = tuple(
        count
        for count in sorted({count for _, count in found.decode if count > 1})
        if statistics.median(
            rate / found.decode[kind, 1] for (kind, n), rate in found.decode.items() if n == count
        ) < SLOWER_THAN_ONE
    )  # fmt: skip
    tables: dict[str, dict[object, float]] = {}
    for field in dataclasses.fields(found):
        table = getattr(found, field.name)
        if isinstance(table, dict):
            tables[field.name] = {
                key: rate for key, rate in table.items() if (key[-1] if isinstance(key, tuple) else key) not in slow
            }
    return dataclasses.replace(found, **tables), slow  # type: ignore[arg-type]


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _to_answer(found: Calibration) -> _Answer:
    tables: dict[str, list[tuple[list[str | int], float]]] = {}
    for field in dataclasses.fields(found):
        table = getattr(found, field.name)
        if isinstance(table, dict):
            tables[field.name] = [([*key] if isinstance(key, tuple) else [key], rate) for key, rate in table.items()]
    return _Answer(tables, found.scatter)


def _from_answer(answer: _Answer) -> Calibration:
    tables = {
        name: {tuple(key) if len(key) > 1 else key[0]: rate for key, rate in rows}
        for name, rows in answer.tables.items()
    }
    return Calibration(**tables, scatter=answer.scatter)  # type: ignore[arg-type]


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    backend = plugins().backend(name)
    assert isinstance(backend, Calibrator)
    found = backend.calibrate(Settings(0, n_threads=threads, n_threads_batch=threads))
    sys.stdout.buffer.write(msgspec.json.encode(_to_answer(found)))


if __name__ == "__main__":
    main()
