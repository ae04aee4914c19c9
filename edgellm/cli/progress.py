"""What is being done, while it lasts, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Protocol

from edgellm.cli.page import in_place, say_lines
from edgellm.units import show_size

if TYPE_CHECKING:
    import rich.progress
    from rich.console import RenderableType

PLAIN_INTERVAL_S = 2.0
_ROOM_FOR_RATE = 70  # columns of the terminal
# The first bytes say nothing of the time that the rest takes: connections get faster for a while.
PACE_S, PACE_BYTES = 2.0, 10**6


class PausableProgress(Protocol):
    """A `Progress` that gives the terminal free while somebody is asked."""

    def __call__(self, done: int, total: int | None, what: str, /) -> None: ...

    def paused(self) -> AbstractContextManager[None]: ...


@contextmanager
def progress(at_first: str = "", *, tell: Callable[[str], None] | None = None) -> Iterator[PausableProgress]:
    """A callback that shows a download: a bar on a terminal, a line now and then elsewhere.

    Args:
        at_first: what is being done before anything is reported; a terminal shows that too.
        tell: gets the lines, and no bar is shown.
    """
    if tell is not None or not on_terminal():
        yield _Lines(tell or partial(say_lines, err=True))
        return
    with _bar() as bar:
        yield _Bar(bar, at_first)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on a terminal that something is being done of which nothing is known but its end."""
    if not on_terminal():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True, highlight=False).status(Text(in_place(what))):
        yield


@contextmanager
def progress_line(what: str, line_every_s: float = PLAIN_INTERVAL_S) -> Iterator[Callable[[float, str], None]]:
    """A callback that shows a share of the work and what is being done now, with the time left."""
    if not on_terminal():
        yield _Shares(what, line_every_s)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share, now: bar.update(task, completed=share, description=in_place(now))


def has_pace(seconds: float, n_bytes: float) -> bool:
    """Whether enough has come for the time that is left to be told."""
    return seconds >= PACE_S and n_bytes >= PACE_BYTES


def on_terminal() -> bool:
    """Whether standard error is a terminal on which a line can be written over."""
    is_dumb = os.environ.get("TERM") in ("dumb", "unknown")
    return sys.stderr is not None and sys.stderr.isatty() and not is_dumb


def _bar() -> rich.progress.Progress:
    """Name, bar, bytes, rate and time left, as far as the terminal has room for them."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class OfDownload(ProgressColumn):
        """A column that is empty where there is nothing to count."""

        def __init__(self, inner: ProgressColumn) -> None:
            self._inner = inner
            super().__init__(table_column=Column(no_wrap=True))

        def render(self, task: Task) -> RenderableType:
            return self._inner.render(task) if task.total and self._tells(task) else Text()

        def _tells(self, task: Task) -> bool:
            return True

    class OfLong(OfDownload):
        """A column that is empty at first."""

        def _tells(self, task: Task) -> bool:
            return has_pace(task.elapsed or 0.0, task.completed)

    console = Console(stderr=True)
    name = Column(no_wrap=True, overflow="ellipsis", ratio=1, min_width=12)
    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False, table_column=name)]
    columns += [OfDownload(BarColumn(bar_width=console.width // 6)), OfDownload(DownloadColumn())]
    if console.width >= _ROOM_FOR_RATE:
        columns += [OfDownload(TransferSpeedColumn()), OfLong(TimeRemainingColumn())]
    return Progress(*columns, console=console, transient=True, expand=True)


class _Bar:
    """One line at a time: what came before is done."""

    def __init__(self, bar: rich.progress.Progress, what: str) -> None:
        self._bar = bar
        self._what = what
        self._counts = True
        self._task = bar.add_task(in_place(what), total=None)

    def __call__(self, done: int, total: int | None, what: str) -> None:
        if self._what != what:
            # What begins with nothing left to count, such as checking what has come, has no bar.
            self._counts = done != total
            self._bar.remove_task(self._task)
            self._what, self._task = what, self._bar.add_task(in_place(what), total=None)
        if self._counts:
            self._bar.update(self._task, completed=done, total=total)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


class _Lines:
    """Progress as plain lines, with rate and time left from the second of a download on."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._what = ""
        self._next = 0.0
        self._began = (0.0, 0)  # when, and with how many bytes

    def __call__(self, done: int, total: int | None, what: str) -> None:
        now = time.monotonic()
        if what == self._what and now < self._next:
            return
        if what != self._what:
            self._began = (now, done)
        self._what, self._next = what, now + PLAIN_INTERVAL_S
        amount = f": {show_size(done)}" + (f" of {show_size(total)}" if total else "") if done or total else ""
        self._tell(f"{what}{amount}{self._pace(now, done, total)}")

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _pace(self, now: float, done: int, total: int | None) -> str:
        seconds, n_bytes = now - self._began[0], done - self._began[1]
        rate = n_bytes / seconds if seconds > 0 else 0.0
        if rate <= 0:
            return ""
        left = timedelta(seconds=round((total - done) / rate)) if total and total > done else None
        remaining = f", {left} left" if left is not None and has_pace(seconds, n_bytes) else ""
        return f", {show_size(rate)}/s{remaining}"


class _Shares:
    """Shares as plain lines."""

    def __init__(self, what: str, every_s: float) -> None:
        self._what, self._every_s = what, every_s
        self._started = time.monotonic()
        self._next = self._started + every_s

    def __call__(self, share: float, what: str) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every_s
        remaining = f", {(now - self._started) * (1 - share) / share:.0f} s left" if share > 0 else ""
        say_lines(f"{self._what}: {share:.0%}{remaining}, {what}", err=True)
