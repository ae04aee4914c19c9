"""Before a download: its size is told, and on a terminal a large one is asked about, with smaller ones beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import say
from edgellm.cli.progress import PausableProgress
from edgellm.units import show_rate, show_size

if TYPE_CHECKING:
    from edgellm.app.download import PlannedDownload
    from edgellm.types.plan import Candidate

ASKED_ABOVE = 2 * 10**9  # bytes
_YES = "edgellm.yes"  # key of the context


def _say_yes(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_YES] = value


yes = click.option(
    "--yes", is_flag=True, expose_value=False, callback=_say_yes, help="Fetch without asking, however large it is."
)
max_download = click.option(
    "--max-download", metavar="SIZE", help="Largest download, for example 2GB; files already here do not count."
)


class Question:
    """Says what is about to be fetched, and asks whether to, where somebody can answer and it is large."""

    def __init__(self, report: PausableProgress, tell: Callable[[str], None] | None = None) -> None:
        """`tell` gets the size where nobody is asked; None = standard error."""
        self._report = report
        self._tell = tell or partial(say, err=True)
        self._is_yes = bool(click.get_current_context().meta.get(_YES))
        self._taken: Candidate | None = None

    def __call__(self, download: PlannedDownload) -> Candidate | None:
        """What to take instead; None = go on.

        Raises:
            click.Abort: nothing is to be fetched.
        """
        choice, n_bytes = download.choice, download.bytes
        name = f"{choice.model} {choice.quant}"
        if not _can_answer():
            with self._report.paused():
                self._tell(f"Fetching {name}: {show_size(n_bytes)} from {download.file.source.split()[0]}")
            return None
        if self._is_yes or n_bytes <= ASKED_ABOVE or self._is_taken(choice):
            return None
        with self._report.paused():
            say(f"{name} is {show_size(n_bytes)} to download: {_worth(download, choice)}.", err=True)
            self._taken = _ask(download, download.smaller())
        return self._taken

    def _is_taken(self, choice: Candidate) -> bool:
        taken = self._taken
        return taken is not None and (taken.model, taken.quant) == (choice.model, choice.quant)


def _can_answer() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _worth(download: PlannedDownload, choice: Candidate) -> str:
    rate = choice.prefill if download.request.task == "embed" else choice.decode
    return f"expected quality {choice.quality:.0f} of 100, {show_rate(rate.tok_s)} tok/s here"


def _ask(download: PlannedDownload, smaller: list[tuple[Candidate, int]]) -> Candidate | None:
    if smaller:
        say("Smaller ones:", err=True)
    for number, (choice, n_bytes) in enumerate(smaller, 1):
        size = f"{show_size(n_bytes)} to download" if n_bytes else "on this disk"
        say(f"{choice.model} {choice.quant}, {size}: {_worth(download, choice)}", lead=f"{number:3}  ", err=True)
    numbers = [str(number) for number in range(1, len(smaller) + 1)]
    what = "Fetch it? (y)es, (n)o" + (f", or {' or '.join(numbers)} for a smaller one" if numbers else "")
    answer: Any = click.prompt(
        what, type=click.Choice(["y", "n", *numbers], case_sensitive=False), show_choices=False, err=True
    )
    if answer == "n":
        raise click.Abort
    return None if answer == "y" else smaller[int(answer) - 1][0]
