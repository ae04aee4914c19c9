"""Readers of answers: text of a model in, parts of text, thoughts and calls out, as they come.

`answer.py` has the frame that most families share; each family that marks calls in its own way has a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from msgspec.structs import replace

from edgellm.text.readers.answer import CallReader, PushReader, usual
from edgellm.text.readers.attribute_calls import AttributeCallReader
from edgellm.text.readers.harmony import HarmonyParser
from edgellm.text.readers.json_calls import JsonCallReader
from edgellm.text.readers.literal_calls import LiteralCallReader
from edgellm.text.readers.named_calls import NamedCallReader
from edgellm.text.readers.nested_calls import NestedCallReader
from edgellm.text.readers.output import Part
from edgellm.text.readers.recipient import RecipientParser
from edgellm.text.readers.tagged_calls import TaggedCallReader
from edgellm.types.markup import (
    AttributeCalls,
    CallMarkup,
    HarmonyCalls,
    JsonCalls,
    LiteralCalls,
    NamedCalls,
    NestedCalls,
    Reading,
    RecipientCalls,
    TaggedCalls,
)
from edgellm.types.message import Tool

__all__ = ["AnswerReader", "Part", "reader_of"]

MarkedCallsT = TypeVar("MarkedCallsT", NamedCalls, TaggedCalls)


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
    calls = list(_call_readers(row, reading.tools)) if reading.tools and row else []
    return PushReader(usual(reading.markup, reading.opened, calls), trims=bool(calls))


def _call_readers(row: CallMarkup, tools: tuple[Tool, ...]) -> Iterator[CallReader]:
    if isinstance(row, LiteralCalls):
        yield LiteralCallReader(row, tools)
    elif isinstance(row, AttributeCalls):
        yield AttributeCallReader(row, tools)
    elif isinstance(row, NestedCalls):
        yield NestedCallReader(row, tools)
    elif isinstance(row, JsonCalls):
        yield JsonCallReader(row, tools)
    elif isinstance(row, NamedCalls):
        yield from (NamedCallReader(variant, tools) for variant in _with_inner(row))
    elif isinstance(row, TaggedCalls):
        yield from (TaggedCallReader(variant, tools) for variant in _with_inner(row))


def _with_inner(row: MarkedCallsT) -> list[MarkedCallsT]:
    """The row, and one without its outer marks, which models leave out."""
    words = f"{row.section_open} {row.open}".split()
    return [row] if len(words) == 1 else [row, replace(row, section_open="", open=words[-1])]
