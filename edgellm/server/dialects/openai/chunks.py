"""Chunks of a stream as OpenAI's API has them, and the whole answer: what chat and plain completions share."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from edgellm.server import sse
from edgellm.server.answers import require_complete
from edgellm.server.dialects.openai.running_timings import RunningTimings
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas.answer import ChatCompletion, TextCompletion
from edgellm.server.schemas.generation import GenerationBody
from edgellm.server.schemas.usage import CompletionTimings, CompletionUsage, PromptProgress
from edgellm.server.served_model import ServedModel
from edgellm.types.event import Completion, Delta, Done, Event, Prefill, Usage
from edgellm.types.logprob import TokenLogprob

HOLE = "\0"


class OpenAIChunks(sse.Chunks):
    """Of one request. What is sent often is filled into a template that is made once."""

    prefix = object = ""

    def __init__(self, model: ServedModel, body: GenerationBody, record: RequestRecord, notes: Sequence[str]) -> None:
        self._head: dict[str, Any] = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.object,
            "created": int(time.time()),
            "model": model.id_for(body.model, chooses=body.adapters is not None),
            "system_fingerprint": model.fingerprint,
        }
        self._includes_usage = body.include_usage
        self._record = record
        self._notes = [*notes, *body.notes()] or UNSET
        self._tells_progress = body.return_progress
        self._timings = RunningTimings() if body.timings_per_token else None
        self._begun: set[int] = set()  # choices
        self._templates: dict[tuple[int, str, int], sse.Template] = {}

    @abstractmethod
    def _begin(self, number: int, delta: Delta | None) -> list[dict[str, Any]]:
        """The choice objects that come before any other of a choice. `delta`: its first; None = it has none."""

    @abstractmethod
    def _choice(self, number: int, finish_reason: str | None, delta: Delta | None = None) -> dict[str, Any]:
        """A choice object, without logprobs."""

    @abstractmethod
    def _logprobs(self, number: int, tokens: Sequence[TokenLogprob]) -> msgspec.Struct: ...

    @abstractmethod
    def whole(self, answer: Completion, timings: CompletionTimings) -> ChatCompletion | TextCompletion:
        """The response of a request without a stream. `answer` has the choices of all prompts."""

    def takes(self, event: Event) -> bool:
        """Whether it is no part of an answer but of the prompt, which the answers to it begin with."""
        return False

    def text(self, delta: Delta) -> bytes:
        if self.takes(delta):
            return b""
        begin = b"" if delta.choice in self._begun else self._first(delta.choice, delta)
        if delta.logprobs:
            told = self._logprobs(delta.choice, delta.logprobs)
            return begin + self._once({**self._choice(delta.choice, None, delta), "logprobs": told}, delta)
        if delta.kind == "call_name":
            return begin + self._once(self._choice(delta.choice, None, delta), delta)
        key = (delta.choice, delta.kind, delta.call)
        template = self._templates.get(key)
        if template is None:
            if self._timings is not None:
                return begin + self._once(self._choice(delta.choice, None, delta), delta)
            hole = msgspec.structs.replace(delta, text=HOLE)
            template = sse.Template(self._chunk(self._choice(delta.choice, None, hole)), HOLE)
            self._templates[key] = template
        return begin + template.fill(delta.text)

    def progress(self, prefill: Prefill) -> bytes:
        if self._timings is not None:
            self._timings.read(prefill)
        if not self._tells_progress:
            return b""
        nothing = Delta("", 0, choice=prefill.choice)
        return self._event(self._choice(prefill.choice, None, nothing), prompt_progress=PromptProgress.of(prefill))

    def last(self, done: Done) -> bytes:
        require_complete(done)
        begin = b"" if done.choice in self._begun else self._first(done.choice, None)
        timings = CompletionTimings.of(done.timings, done.usage)
        notes = {"notes": self._notes} if self._notes else {}
        end = begin + self._event(self._choice(done.choice, done.finish_reason), timings=timings, **notes)
        if done.n_open:
            return end
        usage = sse.event(self._chunk(usage=self._usage(), timings=timings)) if self._includes_usage else b""
        return end + usage + sse.DONE

    def _first(self, number: int, delta: Delta | None) -> bytes:
        self._begun.add(number)
        return b"".join([self._event(choice) for choice in self._begin(number, delta)])

    def _once(self, choice: dict[str, Any], delta: Delta) -> bytes:
        """A chunk that no template is made of."""
        return self._event(choice, **({"timings": self._timings.count(delta)} if self._timings is not None else {}))

    def _event(self, choice: dict[str, Any], **more: Any) -> bytes:
        return sse.event(self._chunk(choice, **more))

    def _chunk(self, *choices: dict[str, Any], **more: Any) -> dict[str, Any]:
        usage = {"usage": None} if self._includes_usage else {}
        return {**self._head, "choices": choices, **usage, **more}

    def _usage(self) -> CompletionUsage:
        return CompletionUsage.of(self._record.usage or Usage(0, 0))
