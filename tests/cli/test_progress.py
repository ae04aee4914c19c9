"""What a person sees while a model is fetched and loaded: one line that fits, with the model's name."""

from __future__ import annotations

import re

import pytest
from support.terminal import Terminal

# `drawn()` returns when what is shown now has been drawn: by the second drawing that ends, as the first may have begun.
DRAWN = """
import threading
from edgellm.cli.progress import on_terminal
from rich.live import Live
draws, refresh = threading.Semaphore(0), Live.refresh
def counted(self):
    refresh(self)
    draws.release()
Live.refresh = counted
def drawn():
    while draws.acquire(blocking=False):
        pass
    if on_terminal():
        draws.acquire()
        draws.acquire()
"""
DOWNLOAD = """
from edgellm.cli.progress import progress
NAME = "a-model-with-a-long-name-35b-instruct UD-Q4_K_XL"
with progress("choosing a model") as report:
    drawn()
    for step in range(1, 6):
        report(step * 4_000_000_000, 21_000_000_000, NAME)
        drawn()
    report(21_000_000_000, 21_000_000_000, f"checking {NAME}")
    drawn()
"""
WAITING = """
from edgellm.cli.progress import waiting
with waiting("loading a-model Q4_K_M"):
    drawn()
print("loaded")
"""
STEERS = """
from edgellm.cli.progress import progress, progress_line, waiting
NAME = "a" + chr(27) + "]0;title" + chr(7) + "b[/x]"
with waiting(NAME):
    drawn()
with progress(NAME) as report:
    drawn()
    report(1, 2, NAME + "c")
    drawn()
with progress_line("work", 0.0) as share:
    share(0.5, NAME + "d")
    drawn()
"""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def shown(code: str, columns: int, **environment: str) -> list[str]:
    """Each line that stood on the terminal, for however short."""
    with Terminal(columns=columns, code=DRAWN + code, **environment) as terminal:
        return [line for line in re.split(r"[\r\n]+", _ESCAPES.sub("", terminal.rest())) if line.strip()]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_download_is_one_line_with_name_bar_and_bytes(columns: int) -> None:
    lines = shown(DOWNLOAD, columns, TERM="xterm")

    assert max(map(len, lines)) <= columns
    assert "choosing a model" in lines[0]
    downloads = [line for line in lines if "a-model-with" in line and "/21.0 GB" in line]
    assert downloads
    assert all("\u2501" in line for line in downloads), "a bar"
    assert any("GB/s" in line for line in downloads) == (columns >= 80)
    assert "checking a-model" in lines[-1]
    assert "GB" not in lines[-1]


def test_loading_is_seen_and_leaves_nothing_behind() -> None:
    lines = shown(WAITING, 80, TERM="xterm")
    assert any("loading a-model Q4_K_M" in line for line in lines)
    assert lines[-1] == "loaded"
    assert shown(WAITING, 80, TERM="dumb") == ["loaded"]


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_name_does_not_steer_the_terminal(term: str) -> None:
    """Nor is what it has in brackets taken for a style."""
    with Terminal(columns=80, code=DRAWN + STEERS, TERM=term) as terminal:
        text = terminal.rest()
    expected = ["", "c", "d"] if term == "xterm" else ["c", "d"]
    assert all(f"a]0;titleb[/x]{end}" in text for end in expected)
    assert "\x1b]" not in text
    assert "\x07" not in text
