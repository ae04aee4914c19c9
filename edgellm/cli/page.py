"""Text for a person: wrapped at words on a terminal, in whole lines elsewhere, where programs read lines.

What is shown may come from a file, a name or a model of somebody else's making. It must not move the cursor, retitle
the terminal, answer for its user or stand in another place than it was written, so characters that nobody sees are
left out before styles are added, and letters that are written from right to left take nothing else along. An answer of
a model keeps what honest Arabic and Hebrew need: its lines hold nothing but itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgellm.cli.own_output import own
from edgellm.types.controls import MARK, ORDERING, STEERING, UNSEEN

if TYPE_CHECKING:
    from edgellm.errors import EdgeLLMError

NARROWEST = 20  # columns; a terminal that says less does not know
_LEFTWARD = r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
_LEFTWARD_WORDS = re.compile(rf"{MARK}?({_LEFTWARD}+(?:[^\w{MARK}]+{_LEFTWARD}+)*){MARK}?")
_IN_LINES = re.compile(f"[{STEERING}{ORDERING}{UNSEEN}]|(?<!{_LEFTWARD}){MARK}(?!{_LEFTWARD})")  # those of ours stay
_IN_ANSWERS = re.compile(f"[{STEERING}{ORDERING}]")
_BESIDE = 24  # columns that text needs beside its lead; with fewer it goes on below


def columns(*, err: bool = False) -> int | None:
    """Width of the terminal; None where the stream is none, so that lines are not wrapped."""
    stream = sys.stderr if err else sys.stdout
    if stream is None or not stream.isatty():
        return None
    return max(NARROWEST, shutil.get_terminal_size().columns)


def cleaned(text: str) -> str:
    """Without characters that nobody sees. What is printed past `say`, `say_lines`, `entry` and `table` goes through
    it, or through `in_place` where it is for a terminal only."""
    return _IN_LINES.sub("", text)


def cleaned_answer(text: str) -> str:
    """What a model wrote, in lines of its own."""
    return _IN_ANSWERS.sub("", text)


def in_place(text: str) -> str:
    """Cleaned, for a terminal: what stands beside a Hebrew or Arabic name stays there, numbers too."""
    return _LEFTWARD_WORDS.sub(rf"{MARK}\1{MARK}", cleaned(text))


def _shown(text: str, width: int | None) -> str:
    return cleaned(text) if width is None else in_place(text)


def say(text: str = "", *, lead: str = "", err: bool = False, **style: Any) -> None:
    """Print `lead` and, beside it, `text`, in a style (bold, fg, dim)."""
    click.echo(styled(wrapped(text, columns(err=err), lead), **style), err=err)


def say_json(value: object) -> None:
    """Print the one object of `--json`."""
    say_whole(json.dumps(value, indent=2) + "\n")


def say_whole(text: str) -> None:
    """Print what a program reads, as it is."""
    click.echo(text, nl=False, file=own())


def say_lines(text: str, *, err: bool = False) -> None:
    """Print several lines; what is wrapped keeps the indentation of its line."""
    click.echo(wrapped_lines(text, err=err), err=err)


def wrapped_lines(text: str, *, err: bool = False) -> str:
    width = columns(err=err)
    indented = ((line.lstrip(" "), len(line) - len(line.lstrip(" "))) for line in text.split("\n"))
    return "\n".join(wrapped(words, width, " " * n_blanks) for words, n_blanks in indented)


def entry(label: str, text: str, width: int = 12) -> None:
    """Print `text` beside its label, which takes `width` columns, in bold."""
    label = _shown(label, columns())
    lines = wrapped(text, columns(), f"{label:<{width}} ")
    click.echo(styled(lines[: len(label)], bold=True) + lines[len(label) :])


class Column(NamedTuple):
    head: str
    right: bool = False  # numbers
    spare: int = 0  # the higher, the sooner it is left out on a narrow terminal; 0 = never


def table(
    heads: Sequence[Column], rows: Sequence[Sequence[str]], *, gap: int = 2, styles: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Print rows below their heads. The text of the last column goes on below itself where a line is too long.

    Not by `rich.table`, which takes longer to import than a command that only lists takes in all.

    `styles`: those of the rows.
    """
    rows = [[_shown(cell, columns()) for cell in row] for row in rows]
    widths = [max(map(_cells, (column.head, *(row[i] for row in rows)))) for i, column in enumerate(heads)]
    shown, is_narrow = _shown_columns(heads, widths, gap)
    head_row = [column.head for column in heads]
    for row, style in zip((head_row, *rows), ({"bold": True}, *(styles or [{}] * len(rows))), strict=True):
        *cells, last = [_padded(row[i], widths[i], right=heads[i].right) for i in shown]
        if is_narrow:
            say(cells[0].rstrip(), **style)
            cells[0] = " " * (4 - gap)
        padding = " " * (len(last) - len(last.lstrip()))
        say(last.strip(), lead="".join(cell + " " * gap for cell in cells) + padding, **style)


def _shown_columns(heads: Sequence[Column], widths: Sequence[int], gap: int) -> tuple[list[int], bool]:
    """Indices of the columns for which the terminal has room, and whether the first must stand above the others."""
    width = columns()
    shown = list(range(len(heads)))
    for first in (widths[0], 4 - gap):
        shown = list(range(len(heads)))
        while width is not None and (is_wide := _needed([first, *widths[1:]], shown, gap) > width):
            if not any(heads[i].spare for i in shown):
                break
            shown.remove(max(shown, key=lambda i: heads[i].spare))
        if width is None or not is_wide:
            return shown, first != widths[0]
    return shown, len(shown) > 1


def _needed(widths: Sequence[int], shown: Sequence[int], gap: int) -> int:
    *others, last = (widths[i] for i in shown)
    return sum(others) + gap * len(others) + min(last, _BESIDE)


def styled(text: str, **style: Any) -> str:
    """As `click.style`, unless NO_COLOR is set: it turns everything off, bold too."""
    return text if not style or os.environ.get("NO_COLOR") else click.style(text, **style)


def say_error(error: EdgeLLMError) -> None:
    """Print what failed, and below it what to do next."""
    say(f"Error: {error.message}", err=True)
    if error.hint:
        say(error.hint, lead="  ", err=True)


def wrapped(text: str, width: int | None, lead: str = "") -> str:
    """`lead` and `text`, cleaned, in lines of at most `width` columns; a longer word stays whole. Further lines stand
    below the beginning of the text, or four columns in where the lead leaves no room."""
    text, lead = _shown(text, width), _shown(lead, width)
    if width is None:
        return (lead + text).rstrip()
    taken = _cells(lead)
    beside = width - taken >= _BESIDE
    indent = " " * (taken if beside else min(taken, 4))
    first, lines = lead, []
    if lead.strip() and taken + _cells(text.partition(" ")[0]) > width:
        first, indent, lines = "    ", "    ", [lead.rstrip()]
    for line in text.split("\n"):
        wrapper = _Wrapper(
            width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        lines += wrapper.wrap(line) or [first.rstrip()]
        first = indent
    return "\n".join(lines)


class _Wrapper(textwrap.TextWrapper):
    """Counts columns in place of characters."""

    def _split(self, text: str) -> list[str]:
        return [_Shown(chunk) for chunk in super()._split(text)]


class _Shown(str):
    __slots__ = ()

    def __len__(self) -> int:
        return _cells(str(self))


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\n".join(("\b", "Examples:", *(f"  {command}" for command in commands)))


class Wrapping:
    """Wraps text at words while it comes: the beginning of a word is held back until it is known to fit its line."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._at = 0  # columns that are taken on this line
        self._blanks = ""  # held back, as they are left out at a line's end
        self._word = ""  # held back
        self._goes_on = False  # the word began its line, so that nothing is gained by holding it back

    def push(self, text: str) -> str:
        """What can be shown now."""
        return "".join(map(self._take, text))

    def finish(self) -> str:
        """What was held back."""
        return self._end_word()

    def _take(self, char: str) -> str:
        if char == "\n":
            shown = self._end_word() + char
            self._at, self._blanks = 0, ""
            return shown
        if char in " \t":
            shown = self._end_word()
            self._blanks += char
            return shown
        if _cells(char) > 1:  # lines of Chinese and Japanese may end behind each character
            shown = self._end_word() + self._add(char)
            return shown + self._end_word()
        return self._add(char)

    def _add(self, char: str) -> str:
        if self._goes_on or self._at == 0:
            self._goes_on = True
            return self._show(char)
        self._word += char
        if self._at + _cells(self._blanks) + _cells(self._word) <= self._width:
            return ""
        word, self._word, self._blanks, self._at, self._goes_on = self._word, "", "", 0, True
        return "\n" + self._show(word)

    def _end_word(self) -> str:
        word, self._word, self._goes_on = self._word, "", False
        return self._show(word) if word else ""

    def _show(self, text: str) -> str:
        text, self._blanks = self._blanks + text, ""
        if self._at + _cells(text) > self._width and self._at:
            self._at = _cells(text)
            return "\n" + text
        self._at += _cells(text)
        return text


def _cells(text: str) -> int:
    """Columns that text takes on a terminal."""
    tabs = 8 * text.count("\t")
    text = text.replace("\t", "")
    if text.isascii():
        return tabs + len(text)
    from rich.cells import cell_len  # 45 ms

    return tabs + cell_len(text)


def _padded(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - _cells(text))
    return blanks + text if right else text + blanks
