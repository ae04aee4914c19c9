"""What plugins say, in a line: their texts, and what went wrong in one with the line of its file that it came from."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pluggy

from edgellm.errors import EdgeLLMError
from edgellm.types.controls import ORDERING, STEERING

# What calls plugins, and what they call: the mistake is where a plugin did so.
_CORE = Path(__file__).parents[1]
_OTHERS = (str(_CORE), *(str(Path(str(module.__file__)).parent) for module in (importlib, pluggy)), "<")
_STDLIB = str(Path(str(importlib.__file__)).parents[1])
_BUILT_IN = str(_CORE / "builtin")

MOST_TOLD = 2_000  # characters of one text
# Colours and moves of the cursor go with their letters, which nobody could read.
_UNSEEN = re.compile(rf"\x1b\[[0-?]*[ -/]*[@-~]|[{STEERING}{ORDERING}]")
ErrorT = TypeVar("ErrorT", bound=EdgeLLMError)


def is_of_user(error: BaseException) -> bool:
    """Whether it ends this process, and is no failure of the plugin that was asked just then."""
    if not isinstance(error, SystemExit):
        return isinstance(error, KeyboardInterrupt)
    from edgellm.contract.child import is_ending  # `edgellm --help` can do without

    return is_ending()


def told(error: BaseException) -> str:
    """`"NameError: name 'Backnd' is not defined (/home/me/mine/plugin.py, line 12)"`."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {tidied(error.msg)} ({error.filename}, line {error.lineno})"
    place = _place(error.__traceback__)
    said = tidied(error)
    return type(error).__name__ + (f": {said}" if said else "") + (f" ({place})" if place else "")


def tidied(what: object) -> str:
    """Its text, which a class of the plugin's may make in ways of its own, as a line of an ordinary length for people:
    all that a plugin says to them passes here."""
    try:
        text = str.__str__(what) if isinstance(what, str) else str(what)
    except BaseException as error:  # or sys.exit() in there would end every command
        if is_of_user(error):
            raise
        return f"what it says cannot be told: {type(error).__name__}"
    n_characters = len(text)
    # What is cleaned is cut first: it may be many megabytes.
    text = " ".join(filter(None, map(str.strip, text[: 2 * MOST_TOLD].splitlines())))
    text = _UNSEEN.sub("", text)
    cut = n_characters > 2 * MOST_TOLD or len(text) > MOST_TOLD
    return f"{text[:MOST_TOLD]}... ({n_characters:,} characters)" if cut else text


def tidied_error(error: ErrorT) -> ErrorT:
    """One that a plugin raised on purpose, with its words as `tidied` has them."""
    error.message, error.hint = tidied(error.message), tidied(error.hint)
    return error


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
