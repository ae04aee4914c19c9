"""Runs a backend's kernels in their own process, which may crash: `python -m edgellm.history.calibrator`.

The child gets a backend and a number of threads as arguments, and answers with one line of JSON.
"""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import sys

import msgspec

from edgellm.contract.backend import Calibrator, worker_environment
from edgellm.contract.child import ask
from edgellm.contract.manager import plugins
from edgellm.contract.parent import connect
from edgellm.errors import BackendUnavailable, WorkerCrashed
from edgellm.history.calibrations import Tables
from edgellm.types.calibration import Calibration
from edgellm.types.plan import Settings

TIMEOUT_S = 180.0
SLOWER_THAN_ONE = 0.95  # of the rate of one thread


def measure(backend: str, threads: int) -> Calibration:
    """Rates of an installed backend at one thread and at `threads`.

    Raises:
        BackendUnavailable: the backend cannot measure itself, or not now.
        WorkerCrashed: its process died.
    """
    calibrator = plugins().backend(backend)
    if not isinstance(calibrator, Calibrator):
        raise BackendUnavailable(f"backend {backend} does not measure itself", hint="its speeds are predicted")
    answer, end = ask(
        "edgellm.history.calibrator", backend, str(threads), env=worker_environment(calibrator), timeout_s=TIMEOUT_S
    )
    if end.timed_out:
        raise WorkerCrashed(
            f"measuring {backend} took longer than {TIMEOUT_S:.0f} s and was ended",
            hint="try again when the machine has less to do",
        )
    if end.signal:
        hint = "try again with more free memory" if end.signal == "SIGKILL" else "run `edgellm doctor`"
        raise WorkerCrashed(
            f"measuring {backend} died of {end.signal}; what was stored stays", hint=hint, reason=end.signal
        )
    if end.returncode:
        raise BackendUnavailable(f"{backend} cannot be measured: {end.last_words or 'no reason given'}")
    rates = msgspec.json.decode(answer, type=Tables).calibration()
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return dataclasses.replace(rates, build=calibrator.build(), date=day)


def believable(calibration: Calibration) -> tuple[Calibration, tuple[int, ...]]:
    """The calibration without the numbers of threads that were slower than one thread, and those numbers.

    Threads wait for each other: where another program keeps a processor busy, two threads are far slower than one.
    """
    slow = tuple(
        count
        for count in sorted({count for _, count in calibration.decode if count > 1})
        if statistics.median(
            rate / calibration.decode[kind, 1] for (kind, n), rate in calibration.decode.items() if n == count
        ) < SLOWER_THAN_ONE
    )  # fmt: skip
    tables: dict[str, dict[object, float]] = {}
    for field in dataclasses.fields(calibration):
        table = getattr(calibration, field.name)
        if isinstance(table, dict):
            tables[field.name] = {
                key: rate for key, rate in table.items() if (key[-1] if isinstance(key, tuple) else key) not in slow
            }
    return dataclasses.replace(calibration, **tables), slow  # type: ignore[arg-type]


def main() -> None:
    _, tell = connect()
    name, threads = sys.argv[1], int(sys.argv[2])
    backend = plugins().backend(name)
    assert isinstance(backend, Calibrator)
    tell(Tables.of(backend.calibrate(Settings(0, n_threads=threads, n_threads_batch=threads))))


if __name__ == "__main__":
    main()
