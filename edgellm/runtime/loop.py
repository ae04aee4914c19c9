"""Runs one engine: takes requests from an inbox, steps the batch, samples, and says what came of it.

Texts to embed take turns with answers: a batch of them, a step, a batch (`runtime.vectors`).

The same loop serves a worker process and, with `isolate=False`, a thread. It owns the engine; nobody else touches it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgellm.contract.backend import Engine
from edgellm.errors import CacheFull, Closed, ContextOverflow, StepFailed, UnsupportedTask, UsageError
from edgellm.runtime import wire
from edgellm.runtime.embed_queue import VectorQueue
from edgellm.runtime.scheduler import Admission, Scheduler, Sequence
from edgellm.text.detokenize import TextStream
from edgellm.text.sampling import Sampler
from edgellm.types.event import Delta, Done, FinishReason, Timings, Usage
from edgellm.types.request import EmbeddingRequest, GenerationRequest, RerankRequest

Emit = Callable[[list[wire.Up]], None]

# Text goes out at most this often. A small model makes hundreds of tokens per second, and each message wakes the
# parent and its client on processors that are busy with the next token; nobody reads faster than this.
PAUSE_S = 0.020


@dataclass(slots=True, eq=False)
class _Answer:
    """What the loop knows of a request beside its sequence."""

    request: GenerationRequest
    sequence: Sequence
    sampler: Sampler
    text: TextStream
    limit: int
    arrived: float
    started: float = 0.0
    first: float = 0.0
    n_generated: int = 0
    n_steps: int = 0
    n_decoded: int = 0  # steps after the one that brought the first token
    n_beside: int = 0  # other requests in its steps, added up
    unsaid: str = ""  # text that has not gone out yet
    n_unsaid: int = 0  # tokens generated since the last text went out


class Loop:
    """Call `run` in the one thread that may touch the engine."""

    def __init__(self, engine: Engine, inbox: queue.SimpleQueue[wire.Down], emit: Emit) -> None:
        self._engine = engine
        self._inbox = inbox
        self._emit = emit
        self._scheduler = Scheduler(engine.info)
        self._vectors = VectorQueue(engine)
        self._answers: dict[int, _Answer] = {}
        self._said: list[wire.Up] = []
        self._spoke = 0.0  # when running answers were last let speak
        self._stopping = False

    def run(self) -> None:
        """Until `Stop` arrives."""
        while True:
            self._take_messages()
            if self._stopping and self._idle:
                return
            self._admit()
            self._step()
            self._send()
            self._said += self._vectors.step(beside_answers=bool(self._scheduler.running))
            self._send()

    @property
    def _idle(self) -> bool:
        return self._scheduler.idle and self._vectors.idle

    def _take_messages(self) -> None:
        while True:
            try:
                message = self._inbox.get(block=self._idle and not self._stopping)
            except queue.Empty:
                return
            match message:
                case wire.Submit(request_id, GenerationRequest() as request):
                    self._submit(request_id, request)
                case wire.Submit(request_id, EmbeddingRequest() | RerankRequest() as request):
                    self._said += self._vectors.submit(request_id, request)
                case wire.Cancel():
                    self._cancel(message.id)
                case wire.Stop():
                    self._stopping = True
                    if not message.drain:
                        for request_id in list(self._answers):
                            self._cancel(request_id)
                        closed = wire.Failed.of(
                            Closed("the model was closed", hint="send the request again when it is back")
                        )
                        self._said += [wire.Reply(request_id, closed) for request_id in self._vectors.clear()]
            self._send()

    def _submit(self, request_id: int, request: GenerationRequest) -> None:
        try:
            if not self._engine.info.generates:
                raise UnsupportedTask(
                    "the model writes no text: it turns texts into vectors or scores",
                    hint="EdgeLLM.embed and /v1/embeddings ask for vectors; name a chat model for text",
                )
            prompt = self._encode(request)
            sequence = Sequence(request_id, prompt)
            limit = request.max_tokens if request.max_tokens is not None else self._engine.info.n_ctx
            sampler = Sampler(request.sampling, prompt)
            answer = _Answer(request, sequence, sampler, TextStream(request.stop), limit, time.perf_counter())
            self._scheduler.submit(sequence)
        except Exception as error:
            self._said.append(wire.Reply(request_id, wire.Failed.of(error)))
            return
        self._answers[request_id] = answer

    def _encode(self, request: GenerationRequest) -> list[int]:
        info = self._engine.info
        beyond = [token for token, _ in request.sampling.logit_bias if token >= info.vocab_size]
        if beyond:
            raise UsageError(f"logit_bias names token {beyond[0]}", hint=f"tokens are 0 to {info.vocab_size - 1}")
        prompt = self._engine.tokenizer.encode(
            request.prompt, add_special=request.add_bos, parse_special=request.parse_special
        )
        if not prompt:
            raise UsageError("the prompt has no tokens", hint="send at least one character")
        if len(prompt) >= info.n_ctx:
            raise ContextOverflow(
                f"the prompt has {len(prompt)} tokens, the context holds {info.n_ctx} and the answer needs one",
                hint="shorten the prompt, or start with a longer context (--ctx)",
                n_prompt=len(prompt),
                n_ctx=info.n_ctx,
            )
        return prompt

    def _cancel(self, request_id: int) -> None:
        answer = self._answers.get(request_id)
        if answer is not None:
            self._finish(answer, "cancelled")
        else:
            self._vectors.cancel(request_id)

    def _admit(self) -> None:
        while (admission := self._scheduler.admit()) is not None:
            self._scheduler.admitted(admission, self._prepare(admission))
            self._answers[admission.sequence.id].started = time.perf_counter()

    def _prepare(self, admission: Admission) -> int:
        if admission.source != admission.slot:
            return self._engine.fork(admission.source, admission.slot, admission.n_keep)
        return self._engine.truncate(admission.slot, admission.n_keep)

    def _step(self) -> None:
        step = self._scheduler.plan()
        if not step.batch:
            return
        if any(len(entry.tokens) > 1 for entry in step.batch):
            # A prompt takes long: what the others have to say does not wait for it.
            self._speak(time.perf_counter())
            self._send()
        try:
            logits = self._engine.step(step.batch)
        except StepFailed as error:
            # An engine that cannot say which slots it lost has lost those of the step.
            for slot in error.lost_slots or [sequence.slot for sequence in step.sequences]:
                owner = self._scheduler.forget(slot)
                self._fail([owner] if owner else [], error, cache_is_lost=True)
            return
        except CacheFull as error:
            # Nothing was touched: the one that came last gives way, the others go on.
            latest = max(step.sequences, key=self._scheduler.running.index)
            self._fail([latest], error, cache_is_lost=False)
            return
        except Exception as error:
            self._fail(list(step.sequences), error, cache_is_lost=True)
            return
        now = time.perf_counter()
        for sequence in step.sequences:
            answer = self._answers[sequence.id]
            answer.n_steps += 1
            answer.n_decoded += answer.first > 0
            answer.n_beside += len(step.sequences) - 1
        for sequence, rows in zip(self._scheduler.advance(step), logits, strict=True):
            answer = self._answers[sequence.id]
            answer.first = answer.first or now
            try:
                token = answer.sampler.sample(rows[-1])
            except ValueError as error:
                self._fail([sequence], error, cache_is_lost=True)
                continue
            self._take_token(answer, token)
        if now - self._spoke >= PAUSE_S:
            self._speak(now)

    def _take_token(self, answer: _Answer, token: int) -> None:
        """Decide what the sampled token means: text, the end, or nothing yet."""
        if token in self._engine.info.eos_ids and not answer.request.ignore_eos:
            self._finish(answer, "stop")
            return
        answer.n_generated += 1
        answer.n_unsaid += 1
        answer.unsaid += answer.text.push(self._engine.tokenizer.token_bytes(token))
        if answer.n_generated == 1:
            self._say(answer)
        if answer.text.stopped:
            self._finish(answer, "stop")
        elif answer.n_generated >= answer.limit or self._scheduler.room(answer.sequence) == 0:
            self._finish(answer, "length")
        else:
            answer.sequence.next_token = token

    def _finish(self, answer: _Answer, reason: FinishReason) -> None:
        now = time.perf_counter()
        if reason != "cancelled":
            answer.unsaid += answer.text.flush()
        self._say(answer)
        started, first = answer.started or now, answer.first or now
        timings = Timings(started - answer.arrived, first - started, now - first)
        usage = Usage(len(answer.sequence.prompt), answer.n_generated, answer.sequence.n_cached)
        width = 1.0 + answer.n_beside / max(1, answer.n_steps)
        done, steps = Done(reason, usage, timings), wire.Steps(width, answer.n_decoded)
        self._said.append(wire.Reply(answer.sequence.id, done, steps))
        self._forget(answer.sequence, keep_cache=True)

    def _fail(self, sequences: list[Sequence], error: Exception, *, cache_is_lost: bool) -> None:
        for sequence in sequences:
            self._say(self._answers[sequence.id])
            self._said.append(wire.Reply(sequence.id, wire.Failed.of(error)))
            if cache_is_lost:
                self._engine.truncate(sequence.slot, 0)
            self._forget(sequence, keep_cache=not cache_is_lost)

    def _forget(self, sequence: Sequence, *, keep_cache: bool) -> None:
        self._scheduler.release(sequence, keep_cache=keep_cache)
        del self._answers[sequence.id]

    def _speak(self, now: float) -> None:
        self._spoke = now
        for sequence in self._scheduler.running:
            self._say(self._answers[sequence.id])

    def _say(self, answer: _Answer) -> None:
        if answer.unsaid:
            self._said.append(wire.Reply(answer.sequence.id, Delta(answer.unsaid, answer.n_unsaid)))
            answer.unsaid, answer.n_unsaid = "", 0

    def _send(self) -> None:
        if self._said:
            said, self._said = self._said, []
            self._emit(said)
