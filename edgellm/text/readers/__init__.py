"""Readers of answers: text of a model in, parts of text, thoughts and calls out, as they come.

`answer.py` has the frame that most families share; each family that marks calls in its own way has a file.
"""

from __future__ import annotations

from typing import Protocol

from edgellm.text.readers.answer import PushReader, usual
from edgellm.text.readers.output import Part
from edgellm.types.markup import Reading

__all__ = ["AnswerReader", "Part", "reader_of"]


class AnswerReader(Protocol):
    """Reads one answer. Any cut of its text gives the same parts, joined.

    Models are hostile here: time is linear in the text, and what is held back is bounded.
    """

    @property
    def thinking(self) -> bool:
        """Whether what comes now is a thought."""
        ...

    def push(self, text: str) -> list[Part]:
        """What the text adds. What may be the beginning of a marker is held back."""
        ...

    def finish(self) -> list[Part]:
        """The answer ended: what was held back. Arguments of a call that was cut are not valid JSON."""
        ...


def reader_of(reading: Reading) -> AnswerReader:
    """A reader for one answer."""
    return PushReader(usual(reading.markup, reading.opened, None), trims=False)
