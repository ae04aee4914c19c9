"""What commands print fits a terminal of 40, 80 and 200 columns, without a broken word; in a pipe no line is padded."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from support.terminal import Terminal

COMMANDS = (
    ("auto-select", "--profile", "raspberry-pi-5-8gb"),
    ("estimate", "qwen3-4b", "--profile", "raspberry-pi-5-8gb"),
    ("estimate", "qwen3-4b:Q4_K_M", "--profile", "raspberry-pi-5-8gb"),
    ("models",),
    ("models", "--fits", "--profile", "raspberry-pi-5-8gb"),
    ("plugins",),
    ("profile", "--profile", "raspberry-pi-5-8gb"),
    ("profile", "list"),
    ("quants",),
    ("quants", "Q4_K_M"),
    ("show", "qwen3-4b"),
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def piped(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "edgellm", *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow(3)
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_output_fits_its_terminal(arguments: tuple[str, ...]) -> None:
    whole = piped(*arguments)
    assert [line for line in whole.splitlines() if line != line.rstrip()] == []
    words = set(whole.split())
    for columns in (40, 80, 200):
        with Terminal(*arguments, columns=columns) as terminal:
            lines = _ESCAPES.sub("", terminal.rest()).replace("\r", "").splitlines()
        # Only what cannot be broken is longer: a path, an address, a list without blanks.
        assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []
        assert {word for line in lines for word in line.split()} <= words, columns


def test_the_widest_table_is_whole_in_a_pipe_and_narrow_on_a_terminal() -> None:
    assert all(line == line.rstrip() for line in piped("quants").splitlines())
    with Terminal("quants", columns=40) as terminal:
        lines = _ESCAPES.sub("", terminal.rest()).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 40


def test_no_color_means_no_bold_either() -> None:
    with Terminal("profile", "--profile", "raspberry-pi-5-8gb", columns=80, TERM="xterm", NO_COLOR="") as terminal:
        assert "\x1b[1m" in terminal.rest()
    with Terminal("profile", "--profile", "raspberry-pi-5-8gb", columns=80, TERM="xterm", NO_COLOR="1") as terminal:
        assert "\x1b" not in terminal.rest()


def test_a_list_of_profiles_is_asked_for_either_way() -> None:
    assert json.loads(piped("profile", "list", "--json")) == json.loads(piped("profile", "--list", "--json"))
