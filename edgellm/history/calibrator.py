"""Runs a backend's kernels in their own process, which may crash: `python -m edgellm.history.calibrator`.

The child gets a backend and a number of threads as arguments, and answers with one line of JSON: what was measured, or
with the status of a backend's error its message and hint.
"""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from edgellm.contract.answers import Fault, answer, asked, blamed, hint_for
from edgellm.contract.backend import Backend, Calibrator, DeviceCalibrator, worker_environment
from edgellm.contract.child import ask
from edgellm.contract.manager import plugins
from edgellm.contract.parent import connect
from edgellm.errors import BackendError, BackendUnavailable, EdgeLLMError, WorkerCrashed
from edgellm.history import occasions
from edgellm.history.calibrations import Tables
from edgellm.history.plausible import problem_in, problem_in_trials
from edgellm.types.calibration import Calibration, Occasion
from edgellm.types.device_trial import DeviceTrial
from edgellm.types.plan import Settings

MeasuredT = TypeVar("MeasuredT")
TIMEOUT_S = 180.0
DEVICE_TIMEOUT_S = 600.0  # drivers compile their kernels at first
SLOWER_THAN_ONE = 0.95  # of the rate of one thread


class _Failed(msgspec.Struct):
    """Why nothing was measured."""

    message: str
    hint: str
    unavailable: bool = False  # for a reason of its own, and no fault


def measure(backend: str, threads: int) -> Calibration:
    """Rates of an installed backend at one thread and at `threads`.

    Raises:
        BackendUnavailable: the backend cannot measure itself, or not now.
        BackendError: it failed, or gives what no machine has.
        WorkerCrashed: its process died.
    """
    calibrator = plugins().backend(backend)
    if not isinstance(calibrator, Calibrator):
        raise BackendUnavailable(f"backend {backend} does not measure itself", hint="its speeds are predicted")
    build = answer(calibrator, "build")
    rates = _asked(calibrator, str(threads), TIMEOUT_S, Tables).calibration()
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    when = {count: msgspec.structs.replace(occasion, date=day) for count, occasion in rates.occasions.items()}
    return dataclasses.replace(rates, build=build, date=day, occasions=when)


def measure_device(backend: Backend, device: str) -> tuple[DeviceTrial, ...]:
    """Speeds of small models on a GPU.

    Raises:
        BackendUnavailable: it does not compute there. BackendError, WorkerCrashed: as of `measure`.
    """
    return _asked(backend, device, DEVICE_TIMEOUT_S, tuple[DeviceTrial, ...])


def _asked(calibrator: Backend, what: str, timeout_s: float, kind: type[MeasuredT]) -> MeasuredT:
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
    if answer and end.returncode == BackendError.exit_code:
        told = msgspec.json.decode(answer, type=_Failed)
        raise (BackendUnavailable if told.unavailable else BackendError)(told.message, hint=told.hint)
    if end.returncode or not answer:
        why = end.last_words or f"its process ended with status {end.returncode}, and said nothing"
        raise BackendUnavailable(f"{backend} cannot be measured: {why}", hint=hint_for(backend))
    return msgspec.json.decode(answer, type=kind)


def believable(calibration: Calibration) -> Calibration:
    """The calibration without the rates of threads that were slower than one; its occasions have what they reached.

    Threads wait for each other: where another program keeps a processor busy, two threads are far slower than one.
    """
    both: dict[int, list[float]] = {}
    for (kind, count), rate in calibration.decode.items():
        if count > 1 and (kind, 1) in calibration.decode:
            both.setdefault(count, []).append(rate / calibration.decode[kind, 1])
    reached = {count: statistics.median(shares) for count, shares in sorted(both.items())}
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
    try:
        tell(_of_cpu(backend, int(what)) if what.isdecimal() else _of_device(backend, what))
    except Fault as fault:
        error = blamed(name, fault)
        tell(_Failed(error.message, error.hint))
    except MemoryError:
        tell(_Failed(f"{name} cannot be measured: there is too little free memory", "end other programs", True))
    except EdgeLLMError as error:
        tell(_Failed(f"{name} cannot be measured: {error.message}", error.hint, True))
    else:
        return
    sys.exit(BackendError.exit_code)


def _of_cpu(backend: Backend, threads: int) -> Tables:
    assert isinstance(backend, Calibrator)
    before = occasions.counters()
    settings = Settings(0, n_threads=threads, n_threads_batch=threads)
    rates = _made("calibrate", Calibration, problem_in, lambda: backend.calibrate(settings))
    beside = occasions.between(before, occasions.counters())
    alone = dataclasses.replace(rates, occasions={})  # what it was measured beside is not the backend's to say
    return Tables.of(dataclasses.replace(alone, occasions=dict.fromkeys(alone.counts, beside)))


def _of_device(backend: Backend, device: str) -> tuple[DeviceTrial, ...]:
    assert isinstance(backend, DeviceCalibrator)
    return _made("calibrate_device", tuple, problem_in_trials, lambda: backend.calibrate_device(device))


def _made(
    method: str, kind: type[MeasuredT], problem_of: Callable[[MeasuredT], str], call: Callable[[], MeasuredT]
) -> MeasuredT:
    """What that method of a backend gives.

    Raises:
        Fault: it is no `kind`, or has a problem, or the method raises. EdgeLLMError: as it says.
    """
    made: MeasuredT = asked(f"{method}()", call, lambda given: isinstance(given, kind), f"a {kind.__name__}")
    if problem := problem_of(made):
        raise Fault(f"{method}() gives a {kind.__name__} in which {problem}")
    return made


if __name__ == "__main__":
    main()
