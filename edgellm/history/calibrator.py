"""Runs a backend's kernels in their own process, which may crash: `python -m edgellm.history.calibrator`.

The child gets a backend and a number of threads as arguments, and answers with one line of JSON.
"""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from edgellm.contract.answers import Fault, answer, asked, blamed
from edgellm.contract.backend import Backend, Calibrator, DeviceCalibrator, worker_environment
from edgellm.contract.child import ask
from edgellm.contract.manager import plugins
from edgellm.contract.parent import connect
from edgellm.errors import BackendUnavailable, WorkerCrashed
from edgellm.history import occasions
from edgellm.history.calibrations import Tables
from edgellm.types.calibration import Calibration, Occasion
from edgellm.types.device_trial import DeviceTrial
from edgellm.types.plan import Settings

MeasuredT = TypeVar("MeasuredT")
TIMEOUT_S = 180.0
DEVICE_TIMEOUT_S = 600.0  # drivers compile their kernels at first
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
    rates = msgspec.json.decode(_asked(calibrator, str(threads), TIMEOUT_S), type=Tables).calibration()
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    when = {count: msgspec.structs.replace(occasion, date=day) for count, occasion in rates.occasions.items()}
    return dataclasses.replace(rates, build=answer(calibrator, "build"), date=day, occasions=when)


def measure_device(backend: Backend, device: str) -> tuple[DeviceTrial, ...]:
    """Speeds of small models on a GPU.

    Raises:
        BackendUnavailable: it does not compute there. WorkerCrashed: its process died.
    """
    return msgspec.json.decode(_asked(backend, device, DEVICE_TIMEOUT_S), type=tuple[DeviceTrial, ...])


def _asked(calibrator: Backend, what: str, timeout_s: float) -> str:
    """What a process of its own measures: a number of threads, or a GPU by its name."""
    backend = calibrator.name
    answer, end = ask(
        "edgellm.history.calibrator", backend, what, env=worker_environment(calibrator), timeout_s=timeout_s
    )
    if end.timed_out:
        raise WorkerCrashed(
            f"measuring {backend} took longer than {timeout_s:.0f} s and was ended",
            hint="try again when the machine has less to do",
        )
    if end.signal:
        hint = "try again with more free memory" if end.signal == "SIGKILL" else "run `edgellm doctor`"
        raise WorkerCrashed(
            f"measuring {backend} died of {end.signal}; what was stored stays", hint=hint, reason=end.signal
        )
    if end.returncode:
        why = end.last_words or f"its process ended with status {end.returncode}, and said nothing"
        raise BackendUnavailable(f"{backend} cannot be measured: {why}")
    return answer


def believable(calibration: Calibration) -> Calibration:
    """The calibration without the rates of threads that were slower than one; its occasions have what they reached.

    Threads wait for each other: where another program keeps a processor busy, two threads are far slower than one.
    """
    reached = {
        count: statistics.median(
            rate / calibration.decode[kind, 1] for (kind, n), rate in calibration.decode.items() if n == count
        )
        for count in sorted({count for _, count in calibration.decode if count > 1})
    }
    slow = {count: share for count, share in reached.items() if share < SLOWER_THAN_ONE}
    told = {
        count: msgspec.structs.replace(calibration.occasions.get(count, Occasion()), of_one=round(share, 3))
        for count, share in slow.items()
    }
    left = calibration.of(calibration.counts - slow.keys())
    return dataclasses.replace(left, occasions=calibration.occasions | told)


def main() -> None:
    _, tell = connect()
    name, what = sys.argv[1:]
    backend = plugins().backend(name)
    if not what.isdecimal():
        assert isinstance(backend, DeviceCalibrator)
        tell(_made(name, "calibrate_device", tuple, lambda: backend.calibrate_device(what)))
        return
    assert isinstance(backend, Calibrator)
    threads = int(what)
    before = occasions.counters()
    settings = Settings(0, n_threads=threads, n_threads_batch=threads)
    rates = _made(name, "calibrate", Calibration, lambda: backend.calibrate(settings))
    beside = occasions.between(before, occasions.counters())
    tell(Tables.of(dataclasses.replace(rates, occasions=dict.fromkeys(rates.counts, beside))))


def _made(backend: str, method: str, kind: type[MeasuredT], call: Callable[[], MeasuredT]) -> MeasuredT:
    """What that method of a backend gives; where that is no `kind`, or it raises, the last words of this process."""
    try:
        made: MeasuredT = asked(f"{method}()", call, lambda given: isinstance(given, kind), f"a {kind.__name__}")
    except Fault as fault:
        error = blamed(backend, fault)
        sys.exit(f"{error.message}; {error.hint}")
    return made


if __name__ == "__main__":
    main()
