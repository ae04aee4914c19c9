"""The process in which one model's chat template runs: it can be ended, whatever the template does there.

One thread starts it, asks it, and starts it again when it has ended. It lasts as long as the model, because the child
ends with the thread that started it (`contract.confine`). Questions take turns: a template in use takes a millisecond.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from edgellm.contract.child import End, is_ending
from edgellm.contract.helper import Helper, took_too_long
from edgellm.contract.own_python import python
from edgellm.contract.waiter import told_of_leaving
from edgellm.errors import BadTemplate, Closed, EdgeLLMError, Overloaded, UsageError, WorkerCrashed
from edgellm.text.chat import HINT
from edgellm.text.template_jobs import SECONDS, JobResult, TemplateJob
from edgellm.types.checks import CANNOT_BE_SENT, of_plain_type

_log = logging.getLogger("edgellm.templates")
PATIENCE_S = 20.0  # on the clock, for SECONDS of processor time on a machine that other programs keep busy
TRIES = 2  # of a question whose process was ended by something else than the question's own length
_CLOSE_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Question:
    line: bytes
    answer: Future[bytes] = field(default_factory=Future)
    n_tries: int = 0


_LOOK = _Question(b"")  # none: the process may have ended


class TemplateProcess:
    """Starts at once, beside the model that loads. Thread-safe."""

    def __init__(self, is_needed: Callable[[], bool] = lambda: True) -> None:
        """It closes by itself where `is_needed` says no, which may wait for the model to load."""
        self._is_needed = is_needed
        self._made_in = os.getpid()
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._question: _Question | None = None  # at hand; the thread's alone
        # Guards the two below. Reentrant: the garbage collector may abandon this while its thread holds the lock.
        self._lock = threading.RLock()
        self._helper: Helper | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="edgellm-templates", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """None while no process runs."""
        helper = self._helper
        return helper.pid if helper else None

    def run(self, job: TemplateJob) -> JobResult:
        """`template_jobs.run`, there.

        Raises:
            BadTemplate: as there, or the job took more than SECONDS, or ended its process; Overloaded: it took more
            than PATIENCE_S; UsageError: what cannot be sent; WorkerCrashed: no process can be started; Closed.
        """
        with told_of_leaving(lambda: None):  # what has begun ends soon
            result = msgspec.json.decode(self.ask(job).result(), type=JobResult)
        if result.failure:
            raise BadTemplate(result.failure, hint=result.hint)
        return result

    def ask(self, job: TemplateJob) -> Future[bytes]:
        """Waits for nothing. The `JobResult` comes as JSON, or as one of the errors of `run`."""
        question = _Question(_encoded(job))
        with self._lock:
            if self._is_closed:
                raise Closed.of_model()
            self._questions.put(question)
        return question.answer

    def close(self) -> None:
        """End it; who waits for an answer gets `Closed`. Twice is fine."""
        self.abandon()
        if os.getpid() == self._made_in and threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def abandon(self) -> None:
        """As `close`, and wait for nothing, so that a garbage collector may call it."""
        if os.getpid() != self._made_in:  # a fork, which has none of the threads
            return
        with self._lock:
            self._is_closed = True
            if self._helper is not None:
                self._helper.kill()
        self._questions.put(None)

    def _serve(self) -> None:
        n_started = 0
        while not self._is_closed:
            error: EdgeLLMError | None = None
            try:
                with Helper(_command(), lambda: self._questions.put(_LOOK)) as helper, self._on_record(helper):
                    n_started += 1
                    if n_started > 1 or self._is_needed():
                        self._ask(helper)
                    else:
                        self.abandon()
                if self._is_closed:
                    break
                if not is_ending():  # else we ended it
                    _log.warning("the process for chat templates ended (%s)", _how(helper.end))
                if self._question is None:
                    # Another one not before it is needed: one that ends as soon as it starts would do so for ever.
                    self._question = self._next()
                elif took_too_long(helper.end) or self._question.n_tries >= TRIES:
                    error = _ended(helper.end)
            except Exception as failure:  # there is no process, thread or memory to be had
                self._question = self._question or self._next()
                what = f"no process for chat templates can be started: {failure}"
                error = WorkerCrashed(what, reason=str(failure))
            if error is not None and not self._is_closed:
                self._fail(error)
        self._fail(Closed.of_model())
        while not self._questions.empty():
            if (question := self._questions.get()) is not _LOOK:
                self._question = question
                self._fail(Closed.of_model())

    def _next(self) -> _Question | None:
        """The next question; None = there will be none."""
        while (question := self._questions.get()) is _LOOK:
            continue
        return question

    def _ask(self, helper: Helper) -> None:
        """Until it ends or is to: then the question at hand is open."""
        while True:
            question = self._question or self._questions.get()
            if question is _LOOK and not helper.has_ended:  # an earlier one has
                continue
            if question is None or question is _LOOK:
                return
            self._question = question
            question.n_tries += 1
            line = helper.answer(question.line, PATIENCE_S)
            if not line:
                return
            question.answer.set_result(line)
            self._question = None

    @contextlib.contextmanager
    def _on_record(self, helper: Helper) -> Iterator[None]:
        """So that it can be killed, for as long as its number is its own."""
        with self._lock:
            self._helper = helper
            if self._is_closed:
                helper.kill()
        try:
            yield
        finally:
            with self._lock:
                self._helper = None

    def _fail(self, error: EdgeLLMError) -> None:
        if self._question is not None:
            self._question.answer.set_exception(error)
            self._question = None


def _command() -> list[str]:
    return python("edgellm.text.template_jobs")


def _encoded(job: TemplateJob) -> bytes:
    try:
        return msgspec.json.encode(job, enc_hook=of_plain_type)
    except (TypeError, ValueError) as error:
        hint = "send texts and numbers of an ordinary kind"
        raise UsageError(f"{CANNOT_BE_SENT}: {error}", hint=hint, param="messages") from None


def _ended(end: End) -> EdgeLLMError:
    if end.timed_out:
        what = f"the chat template had no answer after {PATIENCE_S:g} s"
        return Overloaded(what, hint="try again when other programs keep this machine less busy")
    if took_too_long(end):
        return BadTemplate(f"the chat template was stopped: it takes more than {SECONDS:g} s", hint=HINT)
    return BadTemplate(f"the chat template was stopped: its process ended ({_how(end)})", hint=HINT)


def _how(end: End) -> str:
    return end.signal or f"status {end.returncode}"
