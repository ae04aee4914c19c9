"""What went wrong in a plugin, in a line: the error, and the line of the plugin's file that it came from."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType

import pluggy

# What calls plugins, and what they call: the mistake is where a plugin did so.
_CORE = Path(__file__).parents[1]
_OTHERS = (str(_CORE), *(str(Path(str(module.__file__)).parent) for module in (importlib, pluggy)), "<")
_STDLIB = str(Path(str(importlib.__file__)).parents[1])
_BUILT_IN = str(_CORE / "builtin")


MOST_TOLD = 2_000  # characters of what an error says


def told(error: BaseException) -> str:
    """`"NameError: name 'Backnd' is not defined (/home/me/mine/plugin.py, line 12)"`."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {_said(error.msg)} ({error.filename}, line {error.lineno})"
    place = _place(error.__traceback__)
    return f"{type(error).__name__}: {_said(error)}" + (f" ({place})" if place else "")


def _said(what: object) -> str:
    """Its text, which a class of the plugin's may make in ways of its own."""
    try:
        text = str(what)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # or sys.exit() in there would end every command
        return f"what it says cannot be told: {type(error).__name__}"
    text = " ".join(filter(None, map(str.strip, text.splitlines())))
    return text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}... ({len(text):,} characters)"


def _place(trace: TracebackType | None) -> str:
    """The innermost line of the plugin, or of a library that it calls; "" where there is none."""
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        is_stdlib = file.startswith(_STDLIB) and "-packages" not in file[len(_STDLIB) :]
        if file.startswith(_BUILT_IN) or not (is_stdlib or file.startswith(_OTHERS)):
            place = f"{file}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place
