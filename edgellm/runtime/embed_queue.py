"""Queue of requests for vectors and scores: `runtime.loop` computes a batch of them between two steps of answers.

The texts of a request go longest first, so that those in a batch have similar lengths and little is padded. Clients
take turns, and the requests of each, and the room that a batch has left is filled from other requests. So a single text
does not wait for two thousand that came before it, nor for all requests of another client.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from edgellm.contract.embedder import Embedder, Pair, Reranker
from edgellm.contract.engine import Engine
from edgellm.errors import ContextOverflow, Overloaded, UsageError
from edgellm.runtime import wire
from edgellm.runtime.busy_step import BUSY_CHUNK
from edgellm.runtime.checked_tokenizer import CheckedTokenizer
from edgellm.runtime.client_turns import ClientTurns
from edgellm.runtime.engine_check import check_vectors
from edgellm.runtime.engine_error import engine_error
from edgellm.runtime.long_text import LONG_TEXT
from edgellm.runtime.processor_time import WorkTime
from edgellm.runtime.unsupported_task import unsupported_task
from edgellm.types.event import Timings, Usage, Vectors
from edgellm.types.request import MAX_TOKEN_BYTES, EmbeddingRequest, RerankRequest, check_context

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    import numpy.typing as npt

TextTokens = tuple[int, ...] | Pair

MAX_WAITING = 1024
# Texts are tokenized for at most this long at a time, so that others have their turn in between.
READ_S = 0.010
# A shorter sequence would be more padding than text beside the batch's longest.
LEAST_FILL = 0.5


@dataclass(slots=True, eq=False)
class _Job:
    """One request on its way."""

    id: int
    texts: tuple[str | tuple[int, ...], ...]
    name: str  # what errors call the texts
    first: int  # number of the first one there
    query: str | None = None  # None = to embed
    client: str = ""
    dimensions: int | None = None
    truncate: bool = False
    n_cut: int = 0  # texts that were cut
    arrived: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    items: list[TextTokens] = field(default_factory=list)  # of the texts read so far
    reading: Future[TextTokens] | None = None  # of the next one, in another thread
    left: deque[int] = field(default_factory=deque)  # not computed yet, longest first; filled once all are read
    rows: list[npt.NDArray[np.float32] | None] = field(default_factory=list)

    @property
    def is_read(self) -> bool:
        return len(self.items) == len(self.texts)

    @property
    def waits(self) -> bool:
        return self.reading is not None and not self.reading.done()


class EmbedQueue:
    """All requests of this kind. Used by the loop's thread only."""

    def __init__(
        self, engine: Engine, read_apart: Callable[[Callable[[], TextTokens], str, int], Future[TextTokens]],
        backend: str = "", work_time: WorkTime | None = None,
    ) -> None:  # fmt: skip
        """`read_apart` calls a function in another thread, and lets the loop go on when it is done; with the client
        for whom, and the length of the text.

        `backend`: the name that errors give the engine.
        """
        self._engine = engine
        self._time = work_time or WorkTime()
        timed = self._time.tokenizer(engine.tokenizer, engine.info)
        self._tokenizer = CheckedTokenizer(timed, backend, engine.info.vocab_size)
        self._read_apart = read_apart
        self._backend = backend
        self._jobs: deque[_Job] = deque()  # the next to have a turn first
        self._turns = ClientTurns()

    @property
    def idle(self) -> bool:
        return not self._jobs

    @property
    def waits(self) -> bool:
        """Whether there is nothing to do now: each request waits for a long text, or there is none."""
        return all(job.waits for job in self._jobs)

    def submit(self, request_id: int, request: EmbeddingRequest | RerankRequest) -> list[wire.Reply]:
        """Queue a request; the reply where it is refused."""
        try:
            self._jobs.append(self._job(request_id, request))
            self._turns.arrive(request.client)
            self._sort()
        except Exception as error:
            return [wire.Reply(request_id, wire.Failed.of(engine_error(self._backend, error)))]
        return []

    def cancel(self, request_id: int) -> None:
        """Remove a request. Nothing happens where it is done."""
        for job in self._jobs:
            if job.id == request_id and job.reading is not None:
                job.reading.cancel()
        self._jobs = deque(job for job in self._jobs if job.id != request_id)

    def clear(self) -> list[int]:
        """Remove all requests. Returns their ids."""
        jobs, self._jobs = self._jobs, deque()
        return [job.id for job in jobs]

    def step(self, *, beside_answers: bool) -> list[wire.Reply]:
        """Tokenize some texts, or compute one batch. Returns the replies to requests that ended."""
        if self.waits:
            return []
        while self._jobs[0].waits:
            self._jobs.rotate(-1)
        job = self._jobs[0]
        if not job.is_read:
            try:
                self._read(job)
                if not job.is_read:  # or it is computed next
                    self._let_others(job)
            except Exception as error:
                self._jobs.remove(job)
                return [wire.Reply(job.id, wire.Failed.of(engine_error(self._backend, error)))]
            return []
        batch = self._batch(beside_answers)
        self._let_others(job)
        try:
            self._compute(batch)
        except Exception as error:
            failed = list(dict.fromkeys(job for job, _ in batch))
            self._jobs = deque(job for job in self._jobs if job not in failed)
            told = wire.Failed.of(engine_error(self._backend, error))
            return [wire.Reply(job.id, told) for job in failed]
        done = [job for job in dict.fromkeys(job for job, _ in batch) if not job.left]
        self._jobs = deque(job for job in self._jobs if job not in done)
        return [_reply(job) for job in done]

    def _let_others(self, job: _Job) -> None:
        """It had its turn: other clients' requests come next, then its own client's others."""
        self._jobs.remove(job)
        self._jobs.append(job)
        self._turns.begin(job.client, [other.client for other in self._jobs])
        self._sort()

    def _sort(self) -> None:
        self._jobs = deque(sorted(self._jobs, key=lambda job: self._turns.place(job.client)))

    def _job(self, request_id: int, request: EmbeddingRequest | RerankRequest) -> _Job:
        if len(self._jobs) >= MAX_WAITING:
            raise Overloaded(f"{len(self._jobs)} requests are waiting already", hint="try again later")
        info = self._engine.info
        check_context(request, info.n_ctx)  # one that was sent while the model loaded was not checked
        if isinstance(request, EmbeddingRequest):
            if "embed" not in info.capabilities:
                raise unsupported_task("embed", info)
            _check_dimensions(request.dimensions, self._engine)
            return _Job(
                request_id,
                request.inputs,
                request.called,
                request.first,
                client=request.client,
                dimensions=request.dimensions,
                truncate=request.truncate,
            )
        if "rerank" not in info.capabilities:
            raise unsupported_task("rerank", info)
        return _Job(request_id, request.documents, "documents", 0, request.query, request.client)

    def _read(self, job: _Job) -> None:
        """Tokenize texts for READ_S.

        Raises:
            ContextOverflow: one is too long. UsageError: one has no tokens, or ids that there are not.
        """
        until = time.perf_counter() + READ_S
        job.started = job.started or time.perf_counter()
        while not job.is_read and time.perf_counter() < until:
            index = len(job.items)
            n_letters = len(job.texts[index]) + len(job.query or "")
            if job.reading is None and n_letters > LONG_TEXT:
                job.reading = self._read_apart(partial(self._tokens, job, index), job.client, n_letters)
            if job.waits:
                return
            reading, job.reading = job.reading, None
            job.items.append(self._tokens(job, index) if reading is None else reading.result())
        if job.is_read:
            job.left.extend(sorted(range(len(job.items)), key=lambda index: -len(job.items[index])))
            job.rows = [None] * len(job.items)

    def _tokens(self, job: _Job, index: int) -> TextTokens:
        info, text, name, number = self._engine.info, job.texts[index], job.name, job.first + index
        tokens: TextTokens
        if not isinstance(text, str):
            tokens = text
            if min(text) < 0 or max(text) >= info.vocab_size:
                hint = f"tokens are 0 to {info.vocab_size - 1}"
                raise UsageError(f"{name}[{number}] holds an id that is not a token", hint=hint, param=name)
        elif job.query is not None:
            assert isinstance(self._engine, Reranker)
            tokens = self._time.text(len(job.query) + len(text), partial(self._engine.pair, job.query, text))
        else:
            if job.truncate:
                text = text[: info.n_ctx * MAX_TOKEN_BYTES]  # cutting into tokens takes a second a megabyte
            tokens = tuple(self._tokenizer.encode(text, add_special=True, parse_special=False))
        if job.truncate and len(tokens) > info.n_ctx and not isinstance(tokens, Pair):
            tokens = self._cut_tokens(tokens, is_text=isinstance(text, str))
            job.n_cut += 1
        if not tokens:
            raise UsageError(f"{name}[{number}] has no tokens", hint="send text that the model can read", param=name)
        if len(tokens) > info.n_ctx:
            raise self._too_long(job, number, len(tokens))
        return tokens

    def _too_long(self, job: _Job, number: int, n_tokens: int) -> ContextOverflow:
        n_ctx = self._engine.info.n_ctx
        if job.query is None:
            return ContextOverflow.of_text(job.name, number, n_tokens, n_ctx)
        n_query = len(self._tokenizer.encode(job.query, add_special=True, parse_special=False))
        if n_query > n_ctx:  # beside which no document fits
            return ContextOverflow.of_text("query", None, n_query, n_ctx)
        return ContextOverflow.of_text(job.name, number, n_tokens, n_ctx, beside=", with the query,")

    def _cut_tokens(self, tokens: tuple[int, ...], *, is_text: bool) -> tuple[int, ...]:
        """As many as the context holds: of a text, with the special tokens behind it."""
        n_ctx = self._engine.info.n_ctx
        around = self._tokenizer.encode("", add_special=True, parse_special=False) if is_text else []
        pairs = zip(reversed(around), reversed(tokens), strict=False)
        ending = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return tokens[: n_ctx - ending] + tokens[len(tokens) - ending :]

    def _batch(self, beside_answers: bool) -> list[tuple[_Job, int]]:
        """The next texts, at least one: of the request whose turn it is, then of others of its kind."""
        budget = self._engine.info.max_batch_tokens
        if beside_answers:
            budget = min(budget, BUSY_CHUNK)
        first = self._jobs[0]
        longest = len(first.items[first.left[0]])
        batch: list[tuple[_Job, int]] = []
        for job in self._jobs:
            if not job.is_read or (job.query is None) != (first.query is None):
                continue
            longer: deque[int] = deque()
            while job.left and (not batch or (len(batch) + 1) * longest <= budget):
                size = len(job.items[job.left[0]])
                if size < longest * LEAST_FILL:
                    break
                index = job.left.popleft()
                if size > longest:
                    longer.append(index)
                else:
                    batch.append((job, index))
            job.left.extendleft(reversed(longer))
        return batch

    def _compute(self, batch: Sequence[tuple[_Job, int]]) -> None:
        items = [job.items[index] for job, index in batch]
        engine, longest = self._engine, max(map(len, items))
        self._time.batch(len(items) * longest, longest)
        if batch[0][0].query is None:
            assert isinstance(engine, Embedder)
            rows = engine.embed(items)  # type: ignore[arg-type]
            check_vectors(self._backend, "embed", rows, (len(items), engine.info.n_embd))
        else:
            assert isinstance(engine, Reranker)
            scores = engine.rerank(items)  # type: ignore[arg-type]
            check_vectors(self._backend, "rerank", scores, (len(items),))
            rows = scores[:, None]
        for (job, index), row in zip(batch, rows, strict=True):
            job.rows[index] = _cut(row, job.dimensions, engine)


def _check_dimensions(dimensions: int | None, engine: Engine) -> None:
    info = engine.info
    trained = info.embedding.dimensions if info.embedding is not None else None
    if dimensions is None or dimensions == info.n_embd:
        return
    if trained is None:
        raise UsageError(
            f"dimensions={dimensions}: the model's vectors have {info.n_embd} numbers and were not trained to be cut",
            hint="leave dimensions out",
            param="dimensions",
        )
    if dimensions > info.n_embd or (trained and dimensions not in trained):
        hint = f"one of {', '.join(map(str, trained))}" if trained else f"1 to {info.n_embd}"
        raise UsageError(
            f"dimensions={dimensions} is not what the model was trained for", hint=hint, param="dimensions"
        )


def _cut(row: npt.NDArray[np.float32], dimensions: int | None, engine: Engine) -> npt.NDArray[np.float32]:
    """The first numbers of a vector, of unit length again where the whole is."""
    import numpy as np

    if dimensions is None or dimensions == len(row):
        return row
    part = row[:dimensions]
    if engine.info.embedding is not None and engine.info.embedding.normalized:
        part = part / max(float(np.linalg.norm(part)), 1e-12)
    return np.asarray(part, np.float32)


def _reply(job: _Job) -> wire.Reply:
    import numpy as np

    now = time.perf_counter()
    rows = np.stack([row for row in job.rows if row is not None]).astype("<f4", copy=False)
    usage = Usage(sum(map(len, job.items)), 0)
    timings = Timings(job.started - job.arrived, now - job.started, 0.0)
    return wire.Reply(job.id, Vectors(rows.tobytes(), len(rows), usage, timings, job.n_cut))
