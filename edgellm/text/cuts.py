"""Keeps what looks like a special token in somebody's text from becoming one: "<|im_end|>" in a message stays text.

Before a template is rendered, a mark is put into each special text of the messages, and where the marks come out is
where the prompt is cut: no token spans a cut. A text without special tokens is not touched.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from edgellm.errors import UsageError
from edgellm.formats.tokenizer.special import SpecialTokens

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo

# Never written in text that is exchanged (Unicode 23.7), and no template does anything with them.
_NONCHARACTERS = [chr(code) for code in (*range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF)]


class SpecialTexts:
    """The special texts of one model that nobody but its template may write."""

    def __init__(self, info: EngineInfo) -> None:
        # Added tokens are also blanks and tags of HTML, which belong to the text. Of these only markup counts.
        source = info.chat_template or ""
        markup = [text for text in info.added_texts if text.strip() and (text in source or "|" in text)]
        texts = [text for text in (*info.special_texts, *markup) if len(text) > 1]
        self._all = SpecialTokens(dict.fromkeys(texts, 0))
        # Templates look for the end of a thought in what an assistant said.
        self._unthought = SpecialTokens({text: 0 for text in texts if "think" not in text.lower()})

    def places(self, text: str, *, of_assistant: bool = False) -> list[int]:
        """Where special texts begin."""
        return list((self._unthought if of_assistant else self._all).places(text))


class Marker:
    """Marks the texts of one prompt, and finds the marks again."""

    def __init__(self, special: SpecialTexts, texts: Iterable[str]) -> None:
        """`texts`: all that the prompt is made of.

        Raises:
            UsageError: they have every noncharacter of Unicode.
        """
        self._special = special
        whole = "\n".join(texts).lower()
        every = (mark for mark in _NONCHARACTERS if mark not in whole and _escaped(mark) not in whole)
        unused = list(itertools.islice(every, 2))
        if len(unused) < 2:
            raise UsageError("the messages hold every noncharacter of Unicode", hint="leave them out", param="messages")
        self._mark, self.end = unused  # `end`: for marking where the prompt ends

    def mark(self, value: Any, *, of_assistant: bool = False) -> Any:
        """A text, or what holds texts as JSON does, keys too."""
        if isinstance(value, str):
            places = self._special.places(value, of_assistant=of_assistant)
            bounds = itertools.pairwise((0, *(place + 1 for place in places), len(value)))
            return self._mark.join(value[start:end] for start, end in bounds) if places else value
        if isinstance(value, dict):
            return {
                self.mark(key, of_assistant=of_assistant): self.mark(item, of_assistant=of_assistant)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.mark(item, of_assistant=of_assistant) for item in value]
        return value

    def unmark(self, prompt: str) -> tuple[str, tuple[int, ...]]:
        """The prompt without marks, and where they were, in ascending order."""
        parts = prompt.replace(_escaped(self._mark), self._mark).split(self._mark)
        places = itertools.accumulate(map(len, parts))
        return "".join(parts), tuple(sorted({*itertools.islice(places, len(parts) - 1)}))


def texts_in(value: Any) -> Iterator[str]:
    """Every text in what JSON can write, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value.keys()
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def _escaped(mark: str) -> str:
    """As JSON in ASCII writes it."""
    return f"\\u{ord(mark):04x}"
