"""Tuning: `edgellm.tune`, `edgellm.atune` and `edgellm.plan_tuning`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import msgspec

from edgellm import settings
from edgellm.adaptation.reading import is_data
from edgellm.adaptation.worker import TuneStop
from edgellm.app.tune import jobs
from edgellm.app.tune.plan import TunePlan, planned_tuning
from edgellm.app.tune.run import keep_tuned, run_tuning
from edgellm.contract.source import Progress
from edgellm.errors import UsageError
from edgellm.sdk.tuning_gate import judge_tuning
from edgellm.store.holders import holding
from edgellm.store.library import silent
from edgellm.types.tuning import TuneEvent, TuneStarted
from edgellm.types.tuning_options import Tuned, TuneKeywords, TuneOptions, TunePreview

if TYPE_CHECKING:
    from edgellm.app.download import Approve
    from edgellm.app.tune.data import TuneDataProgress

StrPath = str | os.PathLike[str]
OnEvent = Callable[[TuneEvent], None]
_SHARE_EVERY_S = 2.0


def unheard(_event: TuneEvent) -> None:
    """Nobody listens."""


def plan_tuning(
    base: StrPath, data: StrPath, *, progress: Progress = silent, **options: Unpack[TuneKeywords]
) -> TunePreview:
    """What `tune` with the same arguments would do: settings, memory, time, and what is wrong with which line.

    It needs the tuner's plugin, and not the library that computes (`missing` says how to get that).

    Raises:
        As `tune`, before it begins.
    """
    return planned(base, data, progress=progress, to_run=False, **options).preview


def tune(
    base: StrPath,
    data: StrPath,
    *,
    on_event: OnEvent = unheard,
    stop: TuneStop | None = None,
    progress: Progress = silent,
    **options: Unpack[TuneKeywords],
) -> Tuned | None:
    """Tune a model on examples. What it learned is an adapter, kept beside the model under a name; of the methods dora
    and full it is a model of its own.

    The work is done in a process of its own, which yields to other programs. A run that was ended, in whatever way, is
    gone on from by the next call with the same arguments.

    Args:
        base: a GGUF model, named as in `EdgeLLM.load`.
        data: JSON Lines, JSON, CSV or Parquet: conversations, questions with answers, or texts (docs/tuning.md).
        on_event: called with each `TuneStarted`, `TuneProgress`, `TuneEvaluation`, `TuneSample` and `TuneFinished`.
            Those of a control begin with a second `TuneStarted`.
        stop: `stop.ask()`, from any thread, ends it after the step at hand.
        progress: called with (done, all or None, what) while the model is fetched and the data is read.
        options: the fields of `edgellm.types.tuning_options.TuneOptions` (name, time, max_memory, method, ...).

    Returns:
        None where it was asked to end before its last step, or before what it made was judged.

    Raises:
        BackendUnavailable (no tuner is installed), UnsupportedArtifact, NothingFits, UsageError, DiskFull, SourceError,
        WorkerCrashed, BackendError.
    """
    stop = stop or TuneStop()
    return run_planned(planned(base, data, progress=progress, **options), on_event, stop, progress)


async def atune(
    base: StrPath,
    data: StrPath,
    *,
    on_event: OnEvent = unheard,
    stop: TuneStop | None = None,
    progress: Progress = silent,
    **options: Unpack[TuneKeywords],
) -> Tuned | None:
    """As `tune`, for coroutines: `on_event` is called in the event loop. Cancelling the task ends it after a step."""
    loop = asyncio.get_running_loop()
    stop, answer = stop or TuneStop(), Future[Tuned | None]()

    def tell(event: TuneEvent) -> None:
        loop.call_soon_threadsafe(on_event, event)

    def work() -> None:
        try:
            answer.set_result(tune(base, data, on_event=tell, stop=stop, progress=progress, **options))
        except BaseException as error:
            answer.set_exception(error)

    # Not one of a pool: the worker ends with the thread that starts it.
    threading.Thread(target=work, name="edgellm-tune", daemon=True).start()
    waiting = asyncio.wrap_future(answer)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        stop.ask()
        await asyncio.wait([waiting])
        raise


def planned(
    base: StrPath,
    data: StrPath,
    *,
    progress: Progress = silent,
    approve: Approve | None = None,
    to_run: bool = True,
    **options: Unpack[TuneKeywords],
) -> TunePlan:
    """For a face that shows the plan before it runs it."""
    settings.check(os.environ)
    name = os.fspath(base)
    if not isinstance(name, str) or not name:
        raise UsageError(f"{base!r} names no model", hint="name one", param="base")
    if not isinstance(data, str | os.PathLike):
        what = f"the examples are of type {type(data).__name__}"
        raise UsageError(what, hint="write them to a file (JSON, an object a line), and give its path", param="data")
    if is_data(Path(name)):
        what = f"{name} holds examples, and was given as the model; {os.fspath(data)} was given as the examples"
        raise UsageError(what, hint="name the model first, then the examples", param="base")
    from edgellm.app.download import approved

    asked = TuneOptions.of(**options)
    approve = approve or approved
    return planned_tuning(
        name, Path(data), asked, progress=progress, approve=approve, reading=_shares(progress), to_run=to_run
    )


def _shares(progress: Progress) -> TuneDataProgress:
    """Tells what is counted in examples as a share, now and then: a `Progress` counts bytes."""
    told, next_s = "", 0.0

    def tell(done: int, of: int | None, what: str) -> None:
        nonlocal told, next_s
        now = time.monotonic()
        if what == told and now < next_s:
            return
        share = f": {done / of:.0%}" if of and what == told else ""
        told, next_s = what, now + _SHARE_EVERY_S
        progress(0, None, f"{what}{share}")

    return tell


def run_planned(plan: TunePlan, on_event: OnEvent, stop: TuneStop, progress: Progress = silent) -> Tuned | None:
    """Tune, the control too where it is wanted, ask the served model what came of it, and keep it."""

    def of_control(event: TuneEvent) -> None:
        on_event(msgspec.structs.replace(event, control=True) if isinstance(event, TuneStarted) else event)

    began = time.monotonic()
    with holding(plan.base.paths), jobs.working(plan.work.folder):
        outcome = run_tuning(plan, plan.work, on_event, stop, progress)
        if outcome.finished.end == "asked":
            return None
        control = None if plan.control is None else run_tuning(plan, plan.control, of_control, stop, progress)
        if control is not None and control.finished.end == "asked":
            return None
        gate = judge_tuning(plan, outcome, control, stop, progress)
        return None if stop.asked else keep_tuned(plan, outcome, gate, began)
