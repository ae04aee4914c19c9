"""Events of one request to a loaded model: `EdgeLLM.generate` and its siblings."""

from __future__ import annotations

import contextlib
import functools
import reprlib
from collections.abc import AsyncGenerator, Generator

from edgellm.errors import EdgeLLMError, UsageError
from edgellm.runtime.session import AsyncSink, QueueSink, Session
from edgellm.sdk.asking import submit
from edgellm.sdk.deadline import Deadline
from edgellm.sdk.event_iterator import EventIterator
from edgellm.types.event import Delta, Done, Event, GrammarRead, Prefill
from edgellm.types.request import GenerationRequest


class GenerationMethods:
    """The methods of `EdgeLLM` that take a request as it stands. Thread-safe."""

    _session: Session

    def generate(self, request: GenerationRequest, *, timeout: float | None = None) -> Generator[Event, None, None]:
        """Continue a prompt as it stands: an iterator of events, `Delta`s and then one `Done` for each answer.

        The whole text that continues a raw prompt is
        `"".join(event.text for event in llm.generate(GenerationRequest("Once upon")) if isinstance(event, Delta))`.
        Raises as `chat` does, when the first event is asked for. Closing the iterator cancels the request.
        """
        return EventIterator(self._events_within(request, timeout))

    def _events_within(self, request: GenerationRequest, timeout: float | None) -> Generator[Event, None, None]:
        yield from self._events_by(request, Deadline(timeout))

    def _events_by(self, request: GenerationRequest, deadline: Deadline) -> Generator[Event, None, None]:
        _require_request(request)
        sink = QueueSink()
        request_id = submit(self._session, request, sink)
        slots_taken = functools.partial(_slots_taken, self._session, request_id)
        try:
            while True:
                outcome = deadline.next_of(sink, slots_taken)
                if isinstance(outcome, EdgeLLMError):
                    raise outcome
                if isinstance(outcome, GrammarRead):
                    continue
                assert isinstance(outcome, (Delta, Prefill, Done))
                yield outcome
                if isinstance(outcome, Done) and not outcome.n_open:
                    return
        finally:
            self._session.cancel(request_id)

    async def agenerate(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """As `generate`, for coroutines: an async iterator. Cancelling the task frees the slot."""
        async with contextlib.aclosing(self.aevents(request, timeout=timeout)) as event_lists:
            async for events in event_lists:
                for event in events:
                    yield event

    async def aevents(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[list[Event], None]:
        """As `agenerate`, with the events that are there at the same time in one list, for code that forwards them.

        Of a request with a grammar, one list before the first event may be empty: the model has read the grammar.
        """
        async with contextlib.aclosing(self._event_lists_by(request, Deadline(timeout))) as event_lists:
            async for events in event_lists:
                yield events

    async def _event_lists_by(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[list[Event], None]:
        _require_request(request)
        sink = AsyncSink()
        request_id = submit(self._session, request, sink)
        slots_taken = functools.partial(_slots_taken, self._session, request_id)
        try:
            while True:
                outcomes = await deadline.keep(sink.get_all(), slots_taken)
                events = [outcome for outcome in outcomes if isinstance(outcome, (Delta, Prefill, Done))]
                if events or GrammarRead() in outcomes:
                    yield events
                last = outcomes[-1]
                if isinstance(last, EdgeLLMError):
                    raise last
                if isinstance(last, Done) and not last.n_open:
                    return
        finally:
            self._session.cancel(request_id)


def _slots_taken(session: Session, request_id: int) -> int:
    """How many slots others hold, which this request waits for; 0 = it does not wait."""
    return session.info.n_slots if session.is_queued(request_id) else 0


def _require_request(request: GenerationRequest) -> None:
    """
    Raises:
        UsageError: it is something else.
    """
    if not isinstance(request, GenerationRequest):
        hint = "pass edgellm.types.request.GenerationRequest(text), or what request() makes of messages"
        raise UsageError(f"request={reprlib.repr(request)} is no GenerationRequest", hint=hint, param="request")
