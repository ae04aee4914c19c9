"""What is told of a tuning where nobody looks at a terminal: what begins, and that it still lasts."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress
from support.waiting import wait_until

from edgellm.cli.tune_progress import _Bar, tune_progress
from edgellm.types.tuning import TuneFinished, TuneProgress, TuneStarted


def test_what_lasts_is_said_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def lines(of: str) -> int:
        said.extend(capsys.readouterr().err.splitlines())
        return sum(line.startswith(of) for line in said)

    with tune_progress(silence_s=0.01) as shown:
        wait_until(lambda: lines("loading the model") > 2)
        shown(TuneStarted(9, 100, "toy"))
        wait_until(lambda: lines("the first step") > 2)
        shown(TuneProgress(1, 9, 2.5, 0.1, 10, 5.0, 80.0))
        wait_until(lambda: lines("step 2 of 9, for") > 1)
        shown(TuneFinished("", 9, 9, "complete", 1.0, 1.0))
        shown.waiting(0, 12, "asking the base")
        wait_until(lambda: lines("asking the base, for") > 1)
    lines("")
    n_lines = len(said)

    assert said[0] == "loading the model"
    assert any(line.startswith("step 1 of 9: loss 2.500") for line in said)
    assert "asking the base: 12" in said
    lines("")
    assert len(said) == n_lines, "nothing is said behind its end"


def test_a_line_beside_the_bar_stands_on_a_line_of_its_own() -> None:
    """Ctrl-C's was glued to the bar."""
    terminal = io.StringIO()
    with Progress(console=Console(file=terminal, force_terminal=True, width=60), transient=True) as bar:
        shown = _Bar(bar)
        bar.refresh()
        shown.say("Stopping after this step.")
        bar.refresh()
    (line,) = (line for line in terminal.getvalue().splitlines() if "Stopping" in line)
    assert "loading" not in line
