"""Readers of answers: text of a model in, parts of text, thoughts and calls out, as they come.

`answer.py` has the frame that most families share; each family that marks calls in its own way has a file.
"""

from __future__ import annotations

from typing import Protocol

from edgellm.text.readers.answer import CallReader, PushReader, usual
from edgellm.text.readers.attribute_calls import AttributeCallReader
from edgellm.text.readers.harmony import HarmonyParser
from edgellm.text.readers.literal_calls import LiteralCallReader
from edgellm.text.readers.nested_calls import NestedCallReader
from edgellm.text.readers.output import Part
from edgellm.text.readers.recipient import RecipientParser
from edgellm.types.markup import AttributeCalls, HarmonyCalls, LiteralCalls, NestedCalls, Reading, RecipientCalls

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
    row = reading.markup.calls
    if isinstance(row, HarmonyCalls):
        return PushReader(HarmonyParser(row, reading))
    if isinstance(row, RecipientCalls):
        return PushReader(RecipientParser(row, reading))
    calls = _call_reader(reading) if reading.tools else None
    return PushReader(usual(reading.markup, reading.opened, calls), trims=calls is not None)


def _call_reader(reading: Reading) -> CallReader | None:
    row = reading.markup.calls
    if isinstance(row, LiteralCalls):
        return LiteralCallReader(row)
    if isinstance(row, AttributeCalls):
        return AttributeCallReader(row, reading.tools)
    if isinstance(row, NestedCalls):
        return NestedCallReader(row, reading.tools)
    return None
