"""Runs one engine: receives requests, steps the batch, samples, and emits events.

Texts to embed take turns with answers: a batch of them, a step, a batch (`runtime.embed_queue`). Long prompts are
turned into tokens in another thread, so that the answers at hand go on meanwhile, and in a worker process, who only
wants to know tokens is answered beside the loop (`runtime.token_answers`).

The same loop serves a worker process and, with `isolate=False`, a thread. It owns the engine; no other thread touches
it but for that.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

from edgellm.contract.engine import Engine
from edgellm.errors import CacheFull, Closed, GrammarFailed, StepFailed
from edgellm.runtime import wire
from edgellm.runtime.adapter_shelf import AdapterShelf
from edgellm.runtime.checked_tokenizer import CheckedTokenizer
from edgellm.runtime.drawing import Drawing
from edgellm.runtime.embed_queue import EmbedQueue
from edgellm.runtime.engine_check import check_kept, check_logits
from edgellm.runtime.engine_error import engine_error, of_adapters
from edgellm.runtime.long_text import LONG_TEXT
from edgellm.runtime.mailbox import Inbox
from edgellm.runtime.processor_time import WorkTime
from edgellm.runtime.prompt_reader import READ, Begun, PromptRead, PromptReader, length, takes_long
from edgellm.runtime.reader_thread import ReaderThread
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.scheduler import Scheduler
from edgellm.runtime.slots import Admission
from edgellm.runtime.step import Step
from edgellm.runtime.token_answers import AnsweredBeside, Raised, TokenAnswers
from edgellm.runtime.watchdog import BEAT_S
from edgellm.text.readers import Part
from edgellm.text.sampling import SameDraw
from edgellm.types.adapter import DropAdapter, LoadAdapter
from edgellm.types.event import Done, FinishReason, GrammarRead
from edgellm.types.request import DetokenizeRequest, EmbeddingRequest, GenerationRequest, RerankRequest, TokenizeRequest
from edgellm.types.sampling_defaults import NEUTRAL, SamplingDefaults

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edgellm.contract.engine import Logits
    from edgellm.runtime.prompt_reader import Answered
    from edgellm.text.sampling import LogitRow
    from edgellm.types.plan import LaunchPlan
    from edgellm.types.request import TokenRequest

Send = Callable[[list[wire.Up]], None]

# Text is sent at most this often. A small model makes hundreds of tokens per second, and each message wakes the
# parent and its client on processors that are busy with the next token. Nobody reads faster than this.
FLUSH_INTERVAL_S = 0.020
# Nobody asks anything for so long: most likely an answer is being read.
PAUSE_S = 2.0


class Loop:
    """Call `run` in the one thread that may touch the engine.

    `sampling`: for what requests leave open; `thinking_sampling`: for those that think. `backend`: the name that errors
    give the engine.
    """

    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        send: Send,
        sampling: SamplingDefaults = NEUTRAL,
        backend: str = "",
        *,
        adapters: AdapterShelf | None = None,
        thinking_sampling: SamplingDefaults | None = None,
        work_time: WorkTime | None = None,
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._send = send
        self._sampling = {False: sampling, True: thinking_sampling or sampling}
        self._backend = backend
        self._scheduler = Scheduler(engine.info)
        self._adapters = adapters or AdapterShelf(engine, backend)
        self._time = work_time = work_time or WorkTime()
        self._texts = ReaderThread(inbox)
        self._embeddings = EmbedQueue(engine, partial(self._texts.read, READ), backend, work_time)
        timed = work_time.tokenizer(engine.tokenizer, engine.info)
        self._tokenizer = tokenizer = CheckedTokenizer(timed, backend, engine.info.vocab_size)
        self._drawing = Drawing(tokenizer, engine.info, self._scheduler)
        self._choices: dict[int, list[RequestState]] = {}  # that have not ended, by request
        self._prompts = PromptReader(tokenizer, engine.info, work_time)
        self._reading: dict[int, Future[Begun | Answered]] = {}  # by request
        self.token_answers = TokenAnswers(self._prompts, inbox, send, backend)
        self._replies: list[wire.Up] = []  # not sent yet
        self._flushed_at = 0.0  # when the text of all running requests was last sent
        self._said_at = 0.0  # when anything was last sent, or the wait for a request ended
        self._prepares: Callable[[], bool] | None = None
        self._stopping = False

    @classmethod
    def of(
        cls, plan: LaunchPlan, opened: tuple[Engine, AdapterShelf], inbox: Inbox, send: Send,
        work_time: WorkTime | None = None,
    ) -> Self:  # fmt: skip
        return cls(
            opened[0], inbox, send, plan.sampling, plan.backend, adapters=opened[1],
            thinking_sampling=plan.thinking_sampling, work_time=work_time,
        )  # fmt: skip

    def run(self, *, prepares: Callable[[], bool] | None = None) -> None:
        """Until `Stop` arrives. `prepares` is asked in the first pause whether to make what any grammar needs."""
        self._prepares = prepares if self._engine.info.generates else None
        try:
            self._run()
        finally:
            self._drawing.end()
            self._texts.close()
            self.token_answers.close()

    def _run(self) -> None:
        while True:
            self._time.turn()
            self._receive()
            if self._stopping and self._idle and not self._reads:
                return
            step = self._schedule()
            if step.batch:
                started = time.perf_counter()
                self._sample(step, self._step(step), started)
            self._settle()
            self._emit()
            self._replies += self._embeddings.step(beside_answers=bool(self._scheduler.running))
            self._emit()
            self._beat()

    @property
    def _idle(self) -> bool:
        return self._scheduler.idle and self._embeddings.idle

    @property
    def _reads(self) -> bool:
        """Whether other threads read texts."""
        return bool(self._reading) or self.token_answers.reads

    def _receive(self) -> None:
        """Read the inbox; waits only where there is nothing to do. Much text has steps in between."""
        n_read = 0
        while n_read < LONG_TEXT or self._idle:
            reads = self._reads or (self._embeddings.waits and not self._embeddings.idle)
            waits = self._scheduler.idle and self._embeddings.waits and (reads or not self._stopping)
            try:
                message = self._inbox.get(waits, BEAT_S if reads else PAUSE_S if self._prepares else None)
            except queue.Empty:
                if waits and not reads and self._prepares is not None:
                    if self._prepares():
                        self._texts.read(READ, self._prompts.prepare)
                    self._prepares = None
                return
            if waits and not reads:
                self._said_at = time.perf_counter()
            n_read += self._take(message)
            self._settle()
            self._emit()

    def _take(self, message: object) -> int:
        """Returns what was read at once, in characters or tokens."""
        match message:
            case wire.Submit(request_id, EmbeddingRequest() | RerankRequest() as request):
                self._replies += self._embeddings.submit(request_id, request)
            case wire.Submit(request_id, GenerationRequest() | TokenizeRequest() | DetokenizeRequest() as request):
                return self._submit(request_id, request)
            case PromptRead(request_id):
                if (reading := self._reading.pop(request_id, None)) is not None:
                    self._begin(request_id, reading.result)
            case wire.Submit(request_id, LoadAdapter() | DropAdapter() as request):
                self._time.load(request.file.bytes if isinstance(request, LoadAdapter) else 0)
                self._replies += self._adapters.submit(request_id, request)
                self._time.turn()
            case AnsweredBeside():
                self._say([])
            case Raised(error):
                raise error
            case wire.Cancel(request_id):
                self._cancel(request_id)
            case wire.Stop(drain):
                self._stop(drain)
        return 0

    def _submit(self, request_id: int, request: GenerationRequest | TokenRequest) -> int:
        matcher = self._prompts.kept(request)
        read = partial(self._prompts.read, request, matcher)
        if takes_long(request, matcher):
            client = request.client if isinstance(request, GenerationRequest) else ""
            self._reading[request_id] = self._texts.read(PromptRead(request_id), read, client, length(request))
            return 0
        self._begin(request_id, read)
        return length(request)

    def _begin(self, request_id: int, read: Callable[[], Begun | Answered]) -> None:
        try:
            begun = read()
            if isinstance(begun, Begun):
                self._queue(request_id, begun)
            else:
                self._replies.append(wire.Reply(request_id, begun))
        except Exception as error:
            self._replies.append(wire.Reply(request_id, wire.Failed.of(engine_error(self._backend, error))))

    def _settle(self) -> None:
        self._replies += self._adapters.settle(self._scheduler.uses, self._scheduler.forget_adapter)

    def _queue(self, request_id: int, begun: Begun) -> None:
        """A state for each choice, which then waits for its slot."""
        generation, defaults = begun.generation, self._sampling[begun.generation.thinking]
        used = self._adapters.used
        self._adapters.check(used if generation.adapters is None else generation.adapters)
        limit = generation.max_tokens if generation.max_tokens is not None else self._engine.info.n_ctx
        choices = [
            RequestState(request_id, generation, begun.prompt, limit, defaults, matcher, choice, used)
            for choice, matcher in enumerate(begun.matchers)
        ]
        if generation.echo:
            choices[0].say([Part("prompt", self._prompts.text(generation))])
        ended = self._drawing.repeat(choices[0]) if generation.continuation else None
        if generation.grammar is not None:
            self._replies.append(wire.Reply(request_id, GrammarRead()))
        self._scheduler.submit(*choices)
        self._choices[request_id] = choices
        if ended is not None:
            self._finish(choices[0], ended)

    def _cancel(self, request_id: int) -> None:
        if (choices := self._choices.get(request_id)) is not None:
            for request in list(choices):
                self._finish(request, "cancelled")
        elif (prompt := self._reading.pop(request_id, None)) is not None:
            prompt.cancel()
        else:
            self._embeddings.cancel(request_id)

    def _stop(self, drain: bool) -> None:
        self._stopping = True
        if drain:
            return
        for request_id in list(self._choices):
            self._cancel(request_id)
        closed = wire.Failed.of(Closed.of_model())
        unread = *self._embeddings.clear(), *self._reading, *self.token_answers.clear()
        self._replies += [wire.Reply(request_id, closed) for request_id in unread]
        for request_id in list(self._reading):
            self._cancel(request_id)

    def _schedule(self) -> Step:
        """Give slots to waiting requests, and plan the next batch."""
        self._admit()
        while (answer := self._scheduler.gives_way()) is not None:
            self._flush_one(answer)
            self._scheduler.pause(answer, time.perf_counter())
            self._admit()
        return self._scheduler.plan()

    def _admit(self) -> None:
        while (admission := self._scheduler.admit()) is not None:
            self._scheduler.admitted(admission, self._prepare(admission))
            now = time.perf_counter()
            admission.request.begin(now)
            self._replies += [wire.Reply(admission.request.id, told) for told in admission.request.progress(now)]

    def _prepare(self, admission: Admission) -> int:
        """Make the slot hold the prefix; how many tokens of it the engine really kept."""
        if admission.source != admission.slot:
            kept = self._engine.fork(admission.source, admission.slot, admission.n_keep)
            return check_kept(self._backend, "fork", kept, admission.n_keep)
        kept = self._engine.truncate(admission.slot, admission.n_keep)
        return check_kept(self._backend, "truncate", kept, admission.n_keep)

    def _step(self, step: Step) -> Sequence[Logits] | None:
        """Compute a batch; None where that failed; the requests concerned then have their error."""
        if any(len(entry.tokens) > 1 for entry in step.batch):
            # A prompt takes long: text that is ready does not wait for it.
            self._flush(time.perf_counter())
            self._emit()
        try:
            logits = self._engine.step(step.batch)
            check_logits(self._backend, logits, step.batch, self._engine.info.vocab_size)
            return logits
        except StepFailed as error:
            # An engine that cannot say which slots it lost has lost those of the step.
            for slot in error.lost_slots or [request.slot for request in step.requests]:
                owner = self._scheduler.forget(slot)
                self._fail([owner] if owner else [], error, cache_is_lost=True)
        except CacheFull as error:
            # Nothing was touched: the one that came last gives way, the others go on.
            latest = max(step.requests, key=self._scheduler.running.index)
            self._fail([latest], error, cache_is_lost=False)
        except Exception as error:
            self._fail(step.requests, engine_error(self._backend, error), cache_is_lost=True)
        return None

    def _sample(self, step: Step, logits: Sequence[Logits] | None, started: float) -> None:
        """Draw the next token of every request whose logits are there. `started`: when the step did."""
        if logits is None:
            return
        now = time.perf_counter()
        ready = self._scheduler.advance(step, now - started)
        for request in step.requests:
            request.count_step(len(step.requests) - 1)
            if not request.first:
                self._replies += [wire.Reply(request.id, told) for told in request.progress(now)]
        for request, rows in zip(ready, logits, strict=True):
            if request.id not in self._choices:
                continue  # another choice failed, and the whole request with it
            followers = [] if request.first else self._choices[request.id][1:]
            if request.tells_prompt and not request.first:
                request.note_prompt(rows, self._tokenizer.token_bytes)
                if request.n_prefilled < len(request.prompt):
                    continue
                self._flush_one(request)
            request.first = request.first or now
            same = SameDraw() if followers else None
            self._draw(request, rows[-1], same)
            for follower in followers:
                if request.id in self._choices:
                    follower.follow(request, now)
                    self._draw(follower, rows[-1], same)
        if now - self._flushed_at >= FLUSH_INTERVAL_S:
            self._flush(now)

    def _draw(self, request: RequestState, row: LogitRow, same: SameDraw | None) -> None:
        if not request.limit:
            self._finish(request, "length")
            return
        is_first = not request.n_generated
        try:
            reason = self._drawing.draw(request, row, same)
        except GrammarFailed as error:
            self._fail([request], error, cache_is_lost=False)
        except Exception as error:
            told = of_adapters(
                self._backend, request.adapters, error, are_asked=request.generation.adapters is not None
            )
            self._fail([request], told or engine_error(self._backend, error), cache_is_lost=True)
        else:
            if reason is not None:
                self._finish(request, reason)
            elif is_first:
                self._flush_one(request)

    def _finish(self, request: RequestState, reason: FinishReason) -> None:
        now = time.perf_counter()
        if reason != "cancelled":
            request.say(request.text.flush(cut=reason == "length"))
            if reason == "stop" and request.calls_tools:
                reason = "tool_calls"
        self._flush_one(request)
        self._remove(request, keep_cache=True)
        n_open = len(self._choices.get(request.id, ()))
        done = Done(reason, request.usage, request.timings(now), request.choice, n_open, request.text.ended_by)
        self._replies.append(wire.Reply(request.id, done, request.steps))

    def _fail(self, requests: Iterable[RequestState], error: Exception, *, cache_is_lost: bool) -> None:
        """End these, and the other choices of their requests with them. `cache_is_lost`: of these."""
        for request in requests:
            choices = list(self._choices.get(request.id, ()))
            for choice in choices:
                self._flush_one(choice)
                self._remove(choice, keep_cache=choice is not request or not cache_is_lost)
            if cache_is_lost and request.slot >= 0:
                self._engine.truncate(request.slot, 0)
            if choices:
                self._replies.append(wire.Reply(request.id, wire.Failed.of(error)))

    def _remove(self, request: RequestState, *, keep_cache: bool) -> None:
        self._scheduler.release(request, keep_cache=keep_cache)
        choices = self._choices[request.id]
        choices.remove(request)
        if not choices:
            del self._choices[request.id]

    def _flush(self, now: float) -> None:
        """Text of all running requests becomes events."""
        self._flushed_at = now
        for request in self._scheduler.running:
            self._flush_one(request)

    def _flush_one(self, request: RequestState) -> None:
        self._replies += [wire.Reply(request.id, delta) for delta in request.flush()]

    def _emit(self) -> None:
        """Send what there is, in one piece."""
        if self._replies:
            replies, self._replies = self._replies, []
            self._say(replies)

    def _beat(self) -> None:
        """After a step that had nothing to say: it was no hang (`runtime.watchdog`)."""
        if time.perf_counter() - self._said_at > BEAT_S:
            self._say([])

    def _say(self, messages: list[wire.Up]) -> None:
        self._send(messages)
        self._said_at = time.perf_counter()
