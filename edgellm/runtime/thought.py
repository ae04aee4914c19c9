"""What a model thinks before it answers: where it may begin in spite of a grammar, and where it has to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgellm.contract.engine import Tokenizer
from edgellm.runtime.request_state import RequestState


class Thoughts:
    """For one model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: dict[str, list[int]] = {}  # of markers
        self._texts: dict[int, str] = {}  # of control tokens

    def marker(self, request: RequestState, token: int) -> bytes:
        """What a control token says to the reader of the answer: b"" where that has no use for it."""
        reading = request.generation.reading
        if reading is None:
            return b""
        if (text := self._texts.get(token)) is None:
            text = self._texts[token] = self._tokenizer.text(token)
        return text.encode() if reading.markup.shows(text) else b""

    def opening(self, request: RequestState, likeliest: Callable[[], int]) -> Sequence[int]:
        """The tokens that open a thought, where an answer begins with one that its grammar does not know of.

        A grammar says what is answered, and not what is thought before. Taken only where nothing is likelier.
        """
        generation = request.generation
        if request.n_generated or request.gate is None or not generation.thinking or generation.reasoning_budget == 0:
            return ()
        reasoning = generation.reading.markup.reasoning if generation.reading is not None else None
        tokens = self._spelled(reasoning.open.strip()) if reasoning is not None else ()
        return tokens if tokens and likeliest() == tokens[0] else ()

    def ending(self, request: RequestState) -> Sequence[int]:
        """The tokens that end a thought which has used up its budget, once per thought; between whole characters."""
        reading, budget = request.generation.reading, request.generation.reasoning_budget
        if not request.text.thinking:
            request.cut_short = False
            return ()
        if reading is None or reading.markup.reasoning is None or budget is None or request.cut_short:
            return ()
        if request.n_reasoning < budget or not request.text.whole:
            return ()
        request.cut_short = True
        return self._spelled(reading.markup.reasoning.close)

    def _spelled(self, marker: str) -> list[int]:
        if (tokens := self._tokens.get(marker)) is None:
            tokens = self._tokenizer.encode(marker, add_special=False, parse_special=True)
            self._tokens[marker] = tokens
        return tokens
