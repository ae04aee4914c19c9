"""Tuning: `edgellm.tune`, `edgellm.atune` and `edgellm.plan_tuning`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from edgellm import settings
from edgellm.adaptation.worker import TuneStop
from edgellm.app.tune.plan import TunePlan, planned_tuning
from edgellm.app.tune.run import TuneOutcome, keep_tuned, run_tuning
from edgellm.contract.source import Progress
from edgellm.errors import UsageError
from edgellm.store.holders import holding
from edgellm.store.library import silent
from edgellm.types.message import Message
from edgellm.types.tuning import TuneEvent
from edgellm.types.tuning_data import TrainingChat, TrainingPair, TrainingRecord
from edgellm.types.tuning_gate import PairedGain
from edgellm.types.tuning_options import Tuned, TuneKeywords, TuneOptions, TunePreview

if TYPE_CHECKING:
    from edgellm.app.download import Approve
    from edgellm.sdk.client import EdgeLLM

StrPath = str | os.PathLike[str]
OnEvent = Callable[[TuneEvent], None]
_MOST_ASKED = 200  # held-out questions: more would take longer than many tunings
_SPARE_TOKENS = 16  # of an answer, beyond what the example says


def unheard(_event: TuneEvent) -> None:
    """Nobody listens."""


def plan_tuning(
    base: StrPath, data: StrPath, *, progress: Progress = silent, **options: Unpack[TuneKeywords]
) -> TunePreview:
    """What `tune` with the same arguments would do: settings, memory, time, and what is wrong with which line.

    Raises:
        As `tune`, before it begins.
    """
    return planned(base, data, progress=progress, **options).preview


def tune(
    base: StrPath,
    data: StrPath,
    *,
    on_event: OnEvent = unheard,
    stop: TuneStop | None = None,
    progress: Progress = silent,
    **options: Unpack[TuneKeywords],
) -> Tuned | None:
    """Tune a model on examples. What it learned is an adapter, kept beside the model under a name.

    The work is done in a process of its own, which yields to other programs. A run that was ended, in whatever way, is
    gone on from by the next call with the same arguments.

    Args:
        base: a GGUF model, named as in `EdgeLLM.load`.
        data: JSON Lines, JSON, CSV or Parquet: conversations, questions with answers, or texts (docs/tuning.md).
        on_event: called with each `TuneStarted`, `TuneProgress`, `TuneEvaluation` and `TuneFinished`.
        stop: `stop.ask()`, from any thread, ends it after the step at hand.
        progress: called with (done, all or None, what) while the model is fetched and the data is read.
        options: the fields of `edgellm.types.tuning_options.TuneOptions` (name, time, max_memory, method, ...).

    Returns:
        None where it was asked to end before its last step.

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
    **options: Unpack[TuneKeywords],
) -> TunePlan:
    """For a face that shows the plan before it runs it."""
    settings.check(os.environ)
    name = os.fspath(base)
    if not isinstance(name, str) or not name:
        raise UsageError(f"{base!r} names no model", hint="name one", param="base")
    from edgellm.app.download import approved

    def reading(_done: int, _of: int) -> None:
        progress(0, None, "reading the examples")  # what is counted there are bytes

    asked = TuneOptions.of(**options)
    return planned_tuning(name, Path(data), asked, progress=progress, approve=approve or approved, reading=reading)


def run_planned(plan: TunePlan, on_event: OnEvent, stop: TuneStop, progress: Progress = silent) -> Tuned | None:
    """Tune, answer the held-out questions without and with the adapter, and keep it."""
    with holding(plan.base.paths):
        outcome = run_tuning(plan, on_event, stop)
        if outcome.finished.end == "asked":
            return None
        return keep_tuned(plan, outcome, _gain(plan, outcome, stop, progress))


def _gain(plan: TunePlan, outcome: TuneOutcome, stop: TuneStop, progress: Progress) -> PairedGain | None:
    """Held-out questions, answered by the served model. None where no held-out example is one."""
    questions = [question for record in plan.test if (question := _question(record))][:_MOST_ASKED]
    if not questions:
        return None
    from edgellm.adaptation.gate import accuracy_gain
    from edgellm.app import adapters
    from edgellm.sdk.client import EdgeLLM

    name = plan.preview.name
    beside = adapters.asked([f"{name}={outcome.adapter}"])
    before: list[bool] = []
    after: list[bool] = []
    with EdgeLLM(adapters.beside(plan.served, beside)) as llm:
        for messages, answer in questions:
            progress(len(after), len(questions), "answering held-out questions")
            before.append(_is_right(llm, messages, answer, None))
            after.append(_is_right(llm, messages, answer, name))
            if stop.asked:
                break
    return accuracy_gain(before, after)


def _question(record: TrainingRecord) -> tuple[list[Message], str] | None:
    """A conversation up to its last answer, and that answer; None where it is none."""
    if isinstance(record, TrainingPair):
        return [Message("user", record.prompt)], record.completion.strip()
    if not isinstance(record, TrainingChat):
        return None
    *before, last = record.messages
    is_answer = last.role == "assistant" and not last.calls and len(record.messages) - 1 not in record.unlearned
    return (before, last.content.strip()) if is_answer and before and not record.tools else None


def _is_right(llm: EdgeLLM, messages: list[Message], answer: str, adapter: str | None) -> bool:
    """Whether it says that and nothing else. What it refuses is not right."""
    try:
        most = len(llm.tokenize(answer)) + _SPARE_TOKENS
        said = llm.chat(messages, temperature=0, max_tokens=most, adapters=adapter).text
    except UsageError:
        return False
    return said.strip() == answer
