"""Turns token bytes into parts of an answer: text, thoughts, calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgellm.text.detokenize import TextStream
from edgellm.text.readers import AnswerReader, Part


class PartStream:
    """Parts of one answer, as its tokens come. Without a reader all of it is text.

    Stop strings are looked for in text alone: one in a thought or in the arguments of a call is a part of what it says.
    None goes across a thought or a call.
    """

    def __init__(self, stop: Sequence[str] = (), reader: AnswerReader | None = None) -> None:
        self._text = TextStream(stop)
        self._characters = TextStream() if reader is not None else self._text
        self._reader = reader

    @property
    def thinking(self) -> bool:
        return self._reader is not None and self._reader.thinking

    @property
    def stopped(self) -> bool:
        """A stop string is complete."""
        return self._text.stopped

    @property
    def ended_by(self) -> str:
        """The stop string that is complete; "" = none."""
        return self._text.ended_by

    @property
    def whole(self) -> bool:
        """Whether no character waits for its rest."""
        return self._characters.whole

    def push(self, data: bytes) -> list[Part]:
        text = self._characters.push(data)
        if self._reader is None:
            return [Part("text", text)] if text else []
        return self._read(self._reader.push(text))

    def flush(self, *, cut: bool = False) -> list[Part]:
        """What is still held when the answer ends otherwise; `cut`: it would have gone on."""
        if self._reader is None:
            return _texts(self._text.flush(cut=cut))
        rest = self._reader.push(self._characters.flush(cut=cut))
        return [*self._read([*rest, *self._reader.finish()]), *_texts(self._text.rest())]

    def _read(self, parts: Iterable[Part]) -> list[Part]:
        said: list[Part] = []
        for part in parts:
            if self.stopped:
                break
            if part.kind == "text":
                said += _texts(self._text.search(part.text))
            else:
                said += [*_texts(self._text.rest()), part]
        return said


def _texts(text: str) -> list[Part]:
    return [Part("text", text)] if text else []
