"""Keeps what looks like a special token in somebody's text from becoming one: "<|im_end|>" in a message stays text.

Before a template is rendered, a mark is put into each special text of the messages, and where the marks come out is
where the prompt is cut: no token spans a cut. A text without special tokens is not touched.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgellm.errors import UsageError
from edgellm.formats.tokenizer.special import SpecialTokens
from edgellm.text.extent import MAX_SOURCE

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo, Tokenizer

# Never written in text that is exchanged (Unicode 23.7), and no template does anything with them.
_NONCHARACTERS = [chr(code) for code in (*range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF)]

_PROBE = "a"


class SpecialTexts:
    """The special texts of one model that nobody but its template may write."""

    def __init__(self, info: EngineInfo) -> None:
        # Added tokens are also blanks and tags of HTML, which belong to the text. Of these only markup counts.
        added = [text for text in info.added_texts if text.strip()]
        written = SpecialTokens(dict.fromkeys(added, 0)).within((info.chat_template or "")[:MAX_SOURCE])
        markup = [text for text in added if text in written or "|" in text]
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

    def count(self, prompt: str) -> int:
        """How many marks are in it. A template may write millions, which `unmark` would hold everybody up with."""
        return prompt.count(self._mark) + prompt.count(_escaped(self._mark))

    def unmark(self, prompt: str) -> tuple[str, tuple[int, ...]]:
        """The prompt without marks, and where they were, in ascending order."""
        parts = prompt.replace(_escaped(self._mark), self._mark).split(self._mark)
        places = itertools.accumulate(map(len, parts))
        return "".join(parts), tuple(dict.fromkeys(itertools.islice(places, len(parts) - 1)))


def encoded(
    tokenizer: Tokenizer, text: str, cuts: Sequence[int], *, add_special: bool, parse_special: bool
) -> list[int]:
    """Token ids of `text`, as `Tokenizer.encode` gives them, but for those that would span a cut."""
    if not cuts:
        return tokenizer.encode(text, add_special=add_special, parse_special=parse_special)
    encode = functools.partial(tokenizer.encode, add_special=False, parse_special=parse_special)
    parts = [text[start:end] for start, end in itertools.pairwise((0, *cuts, len(text)))]
    before, after = _around(tokenizer) if add_special else ([], [])
    further = _goes_on(tokenizer, encode)
    return [*before, *encode(parts[0]), *(token for part in parts[1:] for token in further(part)), *after]


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the model wants before and behind a text."""
    bare = tokenizer.encode(_PROBE, add_special=False, parse_special=False)
    full = tokenizer.encode(_PROBE, add_special=True, parse_special=False)
    start = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)
    return full[:start], full[start + len(bare) :]


def _goes_on(tokenizer: Tokenizer, encode: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
    """`encode` for what continues a text: SentencePiece puts a blank in front of each text that it gets."""
    if b"".join(map(tokenizer.token_bytes, encode(_PROBE))) == _PROBE.encode():
        return encode
    line = encode("\n")

    def further(part: str) -> list[int]:
        tokens = encode(f"\n{part}")
        return tokens[len(line) :] if tokens[: len(line)] == line else encode(part)

    return further


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
