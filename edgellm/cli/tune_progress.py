"""How a tuning goes, while it lasts, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from edgellm.cli.page import in_place, say
from edgellm.cli.progress import on_terminal
from edgellm.types.tuning import TuneEvaluation, TuneEvent, TuneFinished, TuneProgress, TuneSample, TuneStarted

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_INTERVAL_S = 10.0
SILENCE_S = 20.0  # after which a line says that what was begun still lasts
_LOADING, _FIRST_STEP = "loading the model", "the first step"


class Shown(Protocol):
    """Gets the events, and what is done beside them."""

    def __call__(self, event: TuneEvent, /) -> None: ...

    def waiting(self, done: int, total: int | None, what: str, /) -> None: ...

    def say(self, line: str, /) -> None:
        """Print a line beside what is shown."""


@contextmanager
def tune_progress(silence_s: float = SILENCE_S) -> Iterator[Shown]:
    if not on_terminal():
        with _Lines(silence_s) as lines:
            yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)


class _Words:
    """The state of a tuning in a line."""

    def __init__(self) -> None:
        self._held_out: float | None = None

    def of(self, event: TuneProgress) -> str:
        held_out = "" if self._held_out is None else f", held-out {self._held_out:.3f}"
        return f"loss {event.loss:.3f}{held_out}, {event.tok_s:.0f} tok/s"

    def note(self, event: TuneEvent) -> str:
        """What is said beside the state; "" = nothing."""
        from edgellm.explain import tuning as words

        match event:
            case TuneEvaluation():
                self._held_out = event.loss
            case TuneSample():
                return words.sample(event)
            case TuneStarted():
                return words.started(event)
            case TuneFinished() if event.end != "complete":
                return words.end(event.end, event.step, event.n_steps)
        return ""


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task(_LOADING, total=None)
        self._words = _Words()

    def __call__(self, event: TuneEvent) -> None:
        if note := self._words.note(event):
            self.say(note)
        if isinstance(event, TuneStarted):
            self._bar.update(self._task, completed=event.first_step, total=event.n_steps, description=_FIRST_STEP)
        if isinstance(event, TuneProgress):
            text = self._words.of(event)
            self._bar.update(self._task, completed=event.step, total=event.n_steps, description=in_place(text))

    def say(self, line: str) -> None:
        self._bar.console.print(in_place(line), markup=False)

    def waiting(self, done: int, total: int | None, what: str) -> None:
        self._bar.update(self._task, completed=done, total=total, description=in_place(what))


class _Lines:
    """Nothing is silent for longer than `silence_s`: a thread says then what lasts."""

    def __init__(self, silence_s: float) -> None:
        self._words = _Words()
        self._silence_s = silence_s
        self._next = 0.0
        self._what = ""  # is being done
        self._since = self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edgellm-tune-lines", daemon=True)

    def __enter__(self) -> Self:
        self._begin(_LOADING)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, event: TuneEvent) -> None:
        from edgellm.explain import tuning as words

        if note := self._words.note(event):
            self.say(note)
        match event:
            case TuneStarted():
                self._begin(_FIRST_STEP)
            case TuneProgress():
                self._what = f"step {min(event.step + 1, event.n_steps)} of {event.n_steps}"
                self._since = time.monotonic()
                if self._is_time(last=event.step == event.n_steps):
                    left = f", {words.duration(event.left_s)} left" if event.left_s else ""
                    self.say(f"step {event.step} of {event.n_steps}: {self._words.of(event)}{left}")
            case TuneFinished():
                self._what = ""

    def waiting(self, done: int, total: int | None, what: str) -> None:
        if what != self._what:
            self._begin(what, f"{what}: {total}" if total else what)

    def _begin(self, what: str, line: str = "") -> None:
        self._what, self._since = what, time.monotonic()
        self.say(line or what)

    def say(self, line: str) -> None:
        self._last = time.monotonic()
        say(line, err=True)

    def _watch(self) -> None:
        from edgellm.explain import tuning as words

        while not self._ended.wait(max(0.0, self._last + self._silence_s - time.monotonic())):
            now = time.monotonic()
            if now - self._last >= self._silence_s:
                self._last = now
                if self._what:
                    self.say(f"{self._what}, for {words.duration(now - self._since)}")

    def _is_time(self, *, last: bool) -> bool:
        now = time.monotonic()
        if now < self._next and not last:
            return False
        self._next = now + PLAIN_INTERVAL_S
        return True
