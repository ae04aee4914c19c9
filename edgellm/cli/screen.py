"""One answer on the terminal while it comes: its text on standard output, thoughts and calls on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgellm.cli.page import Wrapping, cleaned_answer, columns, say, styled

if TYPE_CHECKING:
    from edgellm.types.event import Delta
    from edgellm.types.tool_use import ToolResult


class Screen:
    """What is not the answer is dimmed, and stands on lines of its own."""

    def __init__(self, *, wrap: bool = True) -> None:
        """`wrap`: at words, where standard output is a terminal."""
        width = columns()
        self._wrapping = None if width is None or not wrap else Wrapping(width)
        self._is_plain = width is None  # a program gets the text as it is
        self._on_err: bool | None = None  # the stream whose line has not ended

    def show(self, delta: Delta) -> None:
        is_text = delta.kind == "text"
        text = delta.text if is_text and self._is_plain else cleaned_answer(delta.text)
        if self._on_err is is_text or delta.kind == "call_name":
            self.end()
        if delta.kind == "call_name":
            text += " "
        if is_text:
            click.echo(text if self._wrapping is None else self._wrapping.push(text), nl=False)
        else:
            click.echo(styled(text, dim=True), nl=False, err=True)
        self._on_err = None if text.endswith("\n") else not is_text

    def show_result(self, result: ToolResult) -> None:
        self.end()
        say(result.text, lead=f"{result.call.name} -> ", err=True, dim=True)

    def end(self, *, cut: bool = False) -> None:
        """What was shown so far stands in whole lines. `cut`: by Ctrl-C, which terminals show."""
        if self._wrapping is not None:
            click.echo(self._wrapping.finish(), nl=False)
        if self._on_err is not None or cut:
            click.echo(err=bool(self._on_err))
        self._on_err = None
