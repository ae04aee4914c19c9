"""How a tuning goes, while it lasts, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from edgellm.cli.page import say
from edgellm.cli.progress import on_terminal
from edgellm.types.tuning import TuneEvaluation, TuneEvent, TuneFinished, TuneProgress, TuneSample, TuneStarted

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_INTERVAL_S = 10.0


class Shown(Protocol):
    """Gets the events, and what is done beside them."""

    def __call__(self, event: TuneEvent, /) -> None: ...

    def waiting(self, done: int, total: int | None, what: str, /) -> None: ...


@contextmanager
def tune_progress() -> Iterator[Shown]:
    if not on_terminal():
        yield _Lines()
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
        self._task = bar.add_task("loading the model", total=None)
        self._words = _Words()

    def __call__(self, event: TuneEvent) -> None:
        if note := self._words.note(event):
            self._bar.console.print(note, markup=False)
        if isinstance(event, TuneProgress):
            text = self._words.of(event)
            self._bar.update(self._task, completed=event.step, total=event.n_steps, description=text)

    def waiting(self, done: int, total: int | None, what: str) -> None:
        self._bar.update(self._task, completed=done, total=total, description=what)


class _Lines:
    def __init__(self) -> None:
        self._words = _Words()
        self._next = 0.0
        self._what = ""

    def __call__(self, event: TuneEvent) -> None:
        from edgellm.explain import tuning as words

        if note := self._words.note(event):
            say(note, err=True)
        if isinstance(event, TuneProgress) and self._is_time(last=event.step == event.n_steps):
            left = f", {words.duration(event.left_s)} left" if event.left_s else ""
            say(f"step {event.step} of {event.n_steps}: {self._words.of(event)}{left}", err=True)

    def waiting(self, done: int, total: int | None, what: str) -> None:
        if what != self._what:
            self._what = what
            say(f"{what}: {total}" if total else what, err=True)

    def _is_time(self, *, last: bool) -> bool:
        now = time.monotonic()
        if now < self._next and not last:
            return False
        self._next = now + PLAIN_INTERVAL_S
        return True
