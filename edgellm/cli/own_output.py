"""Standard output of a command with `--json` is its one object: whatever else is printed goes to standard error.

Plugins print, and so do their libraries. It holds for the descriptor too, so also for native code and for programs that
a plugin starts.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from edgellm.contract.streams import STDERR, STDOUT

_SHOWS_TEXT = {"-h", "--help", "--version"}
_kept: TextIO | None = None
_ways_back = contextlib.ExitStack()


def own() -> TextIO:
    """Where the command writes what it was asked for."""
    return _kept or sys.stdout


def is_one_object(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON."""
    flags = {*arguments[: arguments.index("--")]} if "--" in arguments else {*arguments}
    return "--json" in flags and not flags & _SHOWS_TEXT


def keep() -> None:
    """From now on, until `give_back`, only `own` leads to standard output."""
    global _kept  # noqa: PLW0603 - a process has one standard output
    stream = sys.stdout
    try:
        is_real = stream.fileno() == STDOUT
    except (OSError, ValueError):  # that of a test, or of a program that embeds this
        is_real = False
    if is_real:
        stream.flush()
        kept = open(os.dup(STDOUT), "w", encoding=stream.encoding, errors=stream.errors)  # noqa: SIM115 - `give_back`
        os.dup2(STDERR, STDOUT)
        _ways_back.callback(_lead_back, stream, kept)
        stream = kept
    _ways_back.enter_context(contextlib.redirect_stdout(sys.stderr))
    _kept = stream


def give_back() -> None:
    """Standard output is as it was. Nothing happens where it was not kept."""
    global _kept  # noqa: PLW0603
    _kept = None
    _ways_back.close()


def _lead_back(stream: TextIO, kept: TextIO) -> None:
    with contextlib.suppress(OSError):  # whoever read it is gone, which was told
        stream.flush()  # somebody may hold it, and have printed there
        os.dup2(kept.fileno(), STDOUT)
        kept.close()
