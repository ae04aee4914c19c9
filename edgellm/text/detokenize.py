"""Turns token bytes into text that may be shown: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of one answer's tokens into text, one token at a time.

    A character split over tokens waits for its rest; text that might be the beginning of a stop string waits until it
    is known not to be. Bytes that are not UTF-8 become U+FFFD, as in every OpenAI-compatible server.

    Attributes:
        ended_by: the stop string that is complete; "" = none.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.ended_by = ""

    @property
    def stopped(self) -> bool:
        return bool(self.ended_by)

    @property
    def whole(self) -> bool:
        """Whether no character waits for its rest."""
        return not self._decoder.getstate()[0]

    def push(self, data: bytes) -> str:
        """Text that `data` releases; sets `ended_by` where a stop string is complete (it is not returned)."""
        return self.search(self._decoder.decode(data))

    def flush(self, *, cut: bool = False) -> str:
        """What is still held when the answer ends otherwise: half a character, the beginning of a stop string.

        `cut`: it would have gone on, so half a character is no fault of the model's and is left out.
        """
        text = "" if cut else self.search(self._decoder.decode(b"", final=True))
        return text + self.rest()

    def rest(self) -> str:
        """What might have been the beginning of a stop string, and is none."""
        text, self._held = self._held, ""
        return text

    def search(self, new: str) -> str:
        """As `push`, for text."""
        if not self._stop:
            return new
        text = self._held + new
        # The stop string that ends first counts, however the text was cut into tokens; of two, the longer.
        ends = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self.ended_by = min(ends)
            self._held = ""
            return text[:at]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
