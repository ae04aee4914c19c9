"""Answers of `/v1/completions`, in chunks and whole."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import msgspec

from edgellm.server.dialects.openai.chunks import OpenAIChunks
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas.answer import TextChoice, TextCompletion
from edgellm.server.schemas.completion import CompletionBody
from edgellm.server.schemas.logprobs import TextLogprobs
from edgellm.server.schemas.usage import CompletionTimings
from edgellm.server.served_model import ServedModel
from edgellm.types.event import Choice, Completion, Delta, Event
from edgellm.types.logprob import TokenLogprob


class TextChunks(OpenAIChunks):
    """The choices of all prompts are numbered through."""

    prefix, object = "cmpl", "text_completion"

    def __init__(self, model: ServedModel, body: CompletionBody, record: RequestRecord, notes: Sequence[str]) -> None:
        super().__init__(model, body, record, notes)
        self._body = body
        self._prompts: dict[int, list[Delta]] = {}  # as they come back, for the choices that begin with them
        self._told: dict[int, int] = {}  # by choice, characters of the tokens that have been told

    def takes(self, event: Event) -> bool:
        if not isinstance(event, Delta) or event.kind != "prompt":
            return False
        if not event.choice % self._body.n_drawn:  # further portions of its answers bring it again
            self._prompts.setdefault(event.choice // self._body.n_drawn, []).append(event)
        return True

    def are_long(self, events: Sequence[Event]) -> bool:
        """The logprobs of a prompt are told at the beginning of each choice."""
        tells_prompt = self._body.echo and self._body.logprobs is not None
        begins = tells_prompt and any(event.choice not in self._begun for event in events)
        return begins or super().are_long(events)

    def _begin(self, number: int, delta: Delta | None) -> list[dict[str, Any]]:
        text, tokens = self._prompt(number // self._body.n_drawn)
        if not text and not tokens:
            return []
        return [{**_choice(number, text, None), "logprobs": self._logprobs(number, tokens) if tokens else None}]

    def _choice(self, number: int, reason: str | None, delta: Delta | None = None) -> dict[str, Any]:
        return _choice(number, "" if delta is None else delta.text, reason)

    def _logprobs(self, number: int, tokens: Sequence[TokenLogprob]) -> TextLogprobs:
        offset = self._told.get(number, 0)
        told = TextLogprobs.of(tokens, offset, begins=number not in self._told and bool(self._body.echo))
        self._told[number] = offset + sum(map(len, told.tokens))
        return told

    def whole(self, answer: Completion, timings: CompletionTimings) -> TextCompletion:
        choices, n = answer.choices or (answer,), self._body.n_drawn
        sent = [
            self._sent(choice, self._prompt(first // n))
            for first in range(0, len(choices), n)
            for choice in self._best(choices[first : first + n])
        ]
        texts = [msgspec.structs.replace(choice, index=number) for number, choice in enumerate(sent)]
        return TextCompletion(**self._head, choices=texts, usage=self._usage(), timings=timings, notes=self._notes)

    def _sent(self, choice: Choice, prompt: tuple[str, list[TokenLogprob]]) -> TextChoice:
        text, tokens = prompt[0] + choice.text, (*prompt[1], *choice.logprobs)
        is_asked = self._body.logprobs is not None  # also of an answer that has no token
        told = TextLogprobs.of(tokens, begins=bool(self._body.echo)) if is_asked else None
        return TextChoice(0, text, choice.finish_reason, told)

    def _best(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        """Those of `n` that the model thinks likeliest, by the mean logprob of their tokens, the likeliest first."""
        n = self._body.n_sent
        return choices if n == len(choices) else sorted(choices, key=_likelihood, reverse=True)[:n]

    def _prompt(self, number: int) -> tuple[str, list[TokenLogprob]]:
        deltas = self._prompts.get(number, ())
        return "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.logprobs]


def _likelihood(choice: Choice) -> float:
    return fmean(token.chosen.logprob for token in choice.logprobs) if choice.logprobs else 0.0


def _choice(number: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": None, "finish_reason": reason}
