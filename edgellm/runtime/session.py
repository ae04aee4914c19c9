"""A loaded model, in a process or a thread: what the SDK talks to, and how events find their listeners.

`Sink` objects receive a request's events in order, from the session's own thread.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import copy
import itertools
import os
import queue
from typing import Literal, Protocol

from edgellm.contract.engine import EngineInfo
from edgellm.errors import ContextOverflow, EdgeLLMError, UsageError
from edgellm.runtime import wire
from edgellm.runtime.metrics import Meter
from edgellm.runtime.process_usage import ProcessUsage
from edgellm.types.adapter import AdapterFile
from edgellm.types.event import Adapters, Delta, Done, Event, GrammarRead, Pieces, Prefill, Tokens, Vectors
from edgellm.types.plan import LaunchPlan
from edgellm.types.request import Request

# How long closing waits for the step at hand, and when those who wait for an answer know that none comes. A server has
# 10 s from the signal to its end, of which answers may go on for 6.
CLOSE_TIMEOUT_S = 2.0
TOLD_AFTER_S = 1.0
Delivery = Event | GrammarRead | Vectors | Tokens | Pieces | Adapters | EdgeLLMError


def check_process(made_in: int) -> None:
    """
    Raises:
        UsageError: this process is a fork of the one with that id. It has none of its threads, so nothing ever comes.
    """
    if os.getpid() != made_in:
        raise UsageError(
            f"the model was loaded in process {made_in}; this is process {os.getpid()}, a fork of it",
            hint="load the model after the fork, in each process that uses it",
        )


class Sink(Protocol):
    """Where one request's deliveries go."""

    def put(self, delivery: Delivery) -> None: ...


class QueueSink:
    """For a thread that waits."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Delivery] = queue.SimpleQueue()

    def put(self, delivery: Delivery) -> None:
        self._queue.put(delivery)

    def get(self, timeout_s: float | None = None) -> Delivery:
        """Raises queue.Empty where nothing comes in time."""
        return self._queue.get(timeout=timeout_s)


class AsyncSink:
    """For a coroutine: deliveries are handed over to its event loop, one wake-up for all requests of a step."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Delivery] = asyncio.Queue()

    def put(self, delivery: Delivery) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, delivery)

    async def get(self) -> Delivery:
        return await self.queue.get()

    async def get_all(self) -> list[Delivery]:
        """All deliveries that are there, in order, up to an error; waits for the first.

        Behind an error may come what was on its way when another thread ended the request with it.
        """
        deliveries = [await self.queue.get()]
        while not isinstance(deliveries[-1], EdgeLLMError) and not self.queue.empty():
            deliveries.append(self.queue.get_nowait())
        return deliveries


class Dispatcher:
    """Which sink belongs to which request; for any thread.

    Without a lock: wherever the garbage collector runs, it may close an abandoned answer, which drops its sink. Each
    method changes the sinks in single operations of a dict, which nothing interrupts.
    """

    def __init__(self, longest_ctx: int = 0) -> None:
        """`longest_ctx`: see `Session`."""
        self._longest_ctx = longest_ctx
        self._sinks: dict[int, Sink] = {}
        self._ids = itertools.count(1)
        self.meter = Meter()
        self.adapters: tuple[AdapterFile, ...] = ()  # that are loaded, as the worker said last
        self.had_adapters = False

    def has(self, adapters: tuple[AdapterFile, ...]) -> None:
        """These are loaded now, and no others."""
        self.adapters = adapters
        self.had_adapters = self.had_adapters or bool(adapters)

    def add(self, sink: Sink) -> int:
        request_id = next(self._ids)
        self._sinks[request_id] = sink
        return request_id

    def drop(self, request_id: int) -> bool:
        """Stop listening; whether the request was still open."""
        return self._sinks.pop(request_id, None) is not None

    def __len__(self) -> int:
        return len(self._sinks)

    def n_before(self, request_id: int) -> int:
        """How many open requests came before this one."""
        return sum(1 for other in list(self._sinks) if other < request_id)

    def deliver(self, messages: list[wire.Up]) -> None:
        """Hand each message to its request's sink; those for one event loop go over together."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Delivery], Delivery]]] = {}
        for message in messages:
            if not isinstance(message, wire.Reply):
                continue
            event, steps = message.event, message.steps
            if isinstance(event, Done) and steps is not None and event.finish_reason != "cancelled":
                self.meter.record(event.usage, event.timings, steps.width, steps.n_decoded)
            if isinstance(event, Adapters):
                self.has(event.loaded)
            delivery: Delivery = event.error() if isinstance(event, wire.Failed) else event
            if isinstance(delivery, ContextOverflow):
                delivery.keep_to(self._longest_ctx)
            goes_on = isinstance(delivery, Delta | GrammarRead | Prefill)
            last = not goes_on and not (isinstance(delivery, Done) and delivery.n_open)
            sink = self._sinks.pop(message.id, None) if last else self._sinks.get(message.id)
            if isinstance(sink, AsyncSink):
                by_loop.setdefault(sink.loop, []).append((sink.queue, delivery))
            elif sink is not None:
                sink.put(delivery)
        for loop, deliveries in by_loop.items():
            _hand_over(loop, deliveries)

    def fail_all(self, error: EdgeLLMError) -> None:
        """End every open request with the same error, each with its own copy: they are raised in many threads."""
        for request_id in list(self._sinks):
            sink = self._sinks.pop(request_id, None)
            # Where the listener's event loop is closed, nobody listens any more.
            with contextlib.suppress(RuntimeError):
                if sink is not None:
                    sink.put(copy.copy(error))


def _hand_over(loop: asyncio.AbstractEventLoop, deliveries: list[tuple[asyncio.Queue[Delivery], Delivery]]) -> None:
    def put_all() -> None:
        for target, delivery in deliveries:
            target.put_nowait(delivery)

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(put_all)


SessionState = Literal["loading", "ready", "hung", "reloading", "failed", "closed"]


class Session(abc.ABC):
    """A loaded model that takes requests from any thread of the process that loaded it.

    States: "hung" = the worker said nothing for too long and is being ended; "reloading" = a worker that served is
    replaced, and requests wait for it; "failed" = it cannot be loaded, for now where it was ready before.
    """

    def __init__(self, plan: LaunchPlan) -> None:
        self.longest_ctx = plan.artifact.ctx_train  # that the model was trained for; 0 = unknown
        self._dispatcher = Dispatcher(self.longest_ctx)
        self._info: EngineInfo | None = None  # None until it has loaded
        self._outage: EdgeLLMError | None = None
        self.made_in = os.getpid()
        self.restarts = 0  # of a worker that died in service

    @property
    @abc.abstractmethod
    def info(self) -> EngineInfo:
        """Raises what loading raised, or waits for loading to end."""

    @property
    @abc.abstractmethod
    def state(self) -> SessionState: ...

    @property
    def outage(self) -> EdgeLLMError | None:
        """What ended the model; None while it runs, while it loads for the first time, and after `close`."""
        return self._outage

    @property
    def was_ready(self) -> bool:
        """Whether it ever loaded: what loads again then, after a crash, is worth waiting for."""
        return self._info is not None

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return not len(self._dispatcher)

    def is_queued(self, request_id: int) -> bool:
        """Whether as many requests as there are slots came before this one, and are still open."""
        return self._info is not None and self._dispatcher.n_before(request_id) >= self._info.n_slots

    @property
    def adapters(self) -> tuple[AdapterFile, ...]:
        """Those that are loaded beside the model; of one that is loading again, those that it will have."""
        return self._dispatcher.adapters

    @property
    def had_adapters(self) -> bool:
        """Whether any was loaded since the start."""
        return self._dispatcher.had_adapters

    @property
    def meter(self) -> Meter:
        """Speed of its requests so far."""
        return self._dispatcher.meter

    @abc.abstractmethod
    def process_usage(self) -> tuple[ProcessUsage | None, ProcessUsage | None]:
        """Of the process that holds nothing but the model: right after loading, and now. None = unknown."""

    @abc.abstractmethod
    def submit(self, request: Request, sink: Sink) -> int:
        """Start a request; its events go to `sink`. Returns the id to cancel it by. Does not wait for the worker."""

    @abc.abstractmethod
    def cancel(self, request_id: int) -> None:
        """Nobody listens any more: the slot is free after the step at hand. Nothing happens to a finished request.

        Takes no lock, so that a garbage collector may call it anywhere.
        """

    @abc.abstractmethod
    def close(self, *, drain: bool = False) -> None:
        """Stop; with `drain`, after the requests at hand. Twice is fine.

        Without, who waits for an answer is told after TOLD_AFTER_S at the latest, and a model that hangs is not waited
        for longer than CLOSE_TIMEOUT_S.
        """

    @abc.abstractmethod
    def abandon(self) -> None:
        """Stop, as nobody can ask any more. Waits for nothing, so that a garbage collector may call it."""

    @property
    def is_ours(self) -> bool:
        """Whether this process made it. In a fork of that process there are none of its threads."""
        return os.getpid() == self.made_in

    def _check_process(self) -> None:
        check_process(self.made_in)
