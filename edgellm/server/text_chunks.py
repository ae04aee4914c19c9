"""Answers of `/v1/completions`, in chunks and whole."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from edgellm.server.chunks import OpenAIChunks
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas.answer import TextChoice, TextCompletion
from edgellm.server.schemas.completion import CompletionBody
from edgellm.server.schemas.logprobs import TextLogprobs
from edgellm.server.schemas.usage import CompletionTimings
from edgellm.server.served_model import ServedModel
from edgellm.types.event import Choice, Completion, Delta
from edgellm.types.logprob import TokenLogprob


class TextChunks(OpenAIChunks):
    """The choices of all prompts are numbered through."""

    prefix, object = "cmpl", "text_completion"

    def __init__(self, model: ServedModel, body: CompletionBody, record: RequestRecord) -> None:
        super().__init__(model, body, record)
        self._body = body
        self._told: dict[int, int] = {}  # by choice, characters of the tokens that have been told

    def _begin(self, number: int, delta: Delta | None) -> list[dict[str, Any]]:
        echoed = self._echoed(number)
        return [_choice(number, echoed, None)] if echoed else []

    def _choice(self, number: int, reason: str | None, delta: Delta | None = None) -> dict[str, Any]:
        return _choice(number, "" if delta is None else delta.text, reason)

    def _logprobs(self, number: int, tokens: Sequence[TokenLogprob]) -> TextLogprobs:
        told = TextLogprobs.of(tokens, self._told.get(number, 0))
        self._told[number] = self._told.get(number, 0) + sum(map(len, told.tokens))
        return told

    def whole(self, answer: Completion, timings: CompletionTimings) -> TextCompletion:
        choices, n = answer.choices or (answer,), self._body.n_drawn
        sent = [choice for first in range(0, len(choices), n) for choice in self._best(choices[first : first + n])]
        texts = [
            TextChoice(
                number,
                self._echoed(number) + choice.text,
                choice.finish_reason,
                TextLogprobs.of(choice.logprobs) if self._body.logprobs is not None and choice.logprobs else None,
            )
            for number, choice in enumerate(sent)
        ]
        return TextCompletion(**self._head, choices=texts, usage=self._usage(), timings=timings)

    def _best(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        """Those of `n` that the model thinks likeliest, by the mean logprob of their tokens, the likeliest first."""
        n = self._body.n_sent
        return choices if n == len(choices) else sorted(choices, key=_likelihood, reverse=True)[:n]

    def _echoed(self, number: int) -> str:
        prompt = self._body.prompts()[number // self._body.n_sent] if self._body.echo else ""
        assert isinstance(prompt, str)
        return prompt


def _likelihood(choice: Choice) -> float:
    return fmean(token.chosen.logprob for token in choice.logprobs) if choice.logprobs else 0.0


def _choice(number: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": None, "finish_reason": reason}
