"""Answers of `/completion` and `/infill`, in chunks and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgellm.server import sse
from edgellm.server.answers import require_complete
from edgellm.server.dialects.llama_server.bodies import LlamaGenerationBody, selected, settings_of
from edgellm.server.dialects.openai.running_timings import RunningTimings
from edgellm.server.schemas.usage import PromptProgress, TokenTimings
from edgellm.server.served_model import ServedModel
from edgellm.types.event import Delta, Done, Prefill
from edgellm.types.logprob import Alternative, TokenLogprob
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

HOLE = "\0"
STOP_TYPES = {"length": "limit"}  # by our reason; the others are the model's own end or a stop text


class LlamaChunks(sse.Chunks):
    """Of one request. Choices are numbered through its prompts."""

    def __init__(self, model: ServedModel, body: LlamaGenerationBody, generations: Sequence[GenerationRequest]) -> None:
        self._model = model
        self._body = body
        self._generations = generations
        self._timings = RunningTimings() if body.timings_per_token else None
        self._templates: dict[int, sse.Template] = {}

    def text(self, delta: Delta) -> bytes:
        if delta.logprobs or self._timings is not None:
            timings = {} if self._timings is None else {"timings": self._timings.count(delta)}
            # Clients take a chunk for one token. The text of several comes with the last.
            chunks = [self._chunk(delta.choice, "", (token,)) for token in delta.logprobs[:-1]]
            chunks.append(self._chunk(delta.choice, delta.text, delta.logprobs[-1:]))
            return b"".join(sse.event({**chunk, **timings}) for chunk in chunks)
        if delta.choice not in self._templates:
            self._templates[delta.choice] = sse.Template(self._chunk(delta.choice, HOLE), HOLE)
        return self._templates[delta.choice].fill(delta.text)

    def progress(self, prefill: Prefill) -> bytes:
        timings = {} if self._timings is None else {"timings": self._timings.read(prefill)}
        if not self._body.return_progress:
            return b""
        told = {"prompt_progress": PromptProgress.of(prefill), **timings}
        return sse.event({**self._chunk(prefill.choice, ""), **told})

    def last(self, done: Done) -> bytes:
        return sse.event(self._selected(self._end(done, "", ())))

    def whole(self, deltas: Sequence[Delta], done: Done) -> dict[str, Any]:
        """The answer of one choice."""
        text = "".join(delta.text for delta in deltas)
        return self._selected(self._end(done, text, tuple(token for delta in deltas for token in delta.logprobs)))

    def _chunk(self, choice: int, text: str, tokens: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
        return {
            "index": choice,
            "content": text,
            "tokens": [token.chosen.token for token in tokens] if self._body.return_tokens else [],
            "stop": False,
            "id_slot": 0,
            **self._probabilities(tokens),
        }

    def _end(self, done: Done, text: str, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        require_complete(done)
        model, usage = self._model, done.usage
        name = model.id_for(self._body.model, chooses=self._body.lora is not None)
        asked = self._generations[done.choice // self._generations[0].n]
        drawn = Sampling()
        for part in done.timings.sampling:
            drawn = drawn.over(part.values)
        return {
            **self._chunk(done.choice, text, tokens),
            "stop": True,
            "model": name,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.cached_tokens,
            "generation_settings": settings_of(asked, drawn, name, model.llm.info.n_ctx),
            "prompt": asked.prompt if isinstance(asked.prompt, str) else list(asked.prompt),
            "has_new_line": "\n" in text,
            "truncated": False,
            "stop_type": "word" if done.stop else STOP_TYPES.get(done.finish_reason, "eos"),
            "stopping_word": done.stop,
            "timings": TokenTimings.of(done.timings, usage),
        }

    def _probabilities(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        if not self._body.n_probs:
            return {}
        told = [{**_told(token.chosen), "top_logprobs": list(map(_told, token.top))} for token in tokens]
        return {"completion_probabilities": told}

    def _selected(self, answer: dict[str, Any]) -> dict[str, Any]:
        fields = self._body.response_fields
        return answer if not fields else selected(answer, fields)


def _told(one: Alternative) -> dict[str, Any]:
    text = one.piece.decode(errors="replace")
    return {"id": one.token, "token": text, "bytes": list(one.piece), "logprob": one.logprob}
