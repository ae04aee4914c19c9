"""Requests that have one answer each, which comes whole: sent together, awaited in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from edgellm.contract.waiter import told_of_leaving, unwanted
from edgellm.errors import ContextOverflow, EdgeLLMError
from edgellm.runtime.session import AsyncSink, Delivery, QueueSink, Session, Sink, check_process
from edgellm.sdk.deadline import Deadline
from edgellm.types.request import Request, check_context

T = TypeVar("T")
P = ParamSpec("P")
Read = Callable[[Delivery, int], T]  # takes what came for the request with this number; raises it where it is an error
_may_ask: ContextVar[bool] = ContextVar("may_ask", default=True)


class AsksModel(Exception):
    """What `without_asking` makes is not to be had without the model."""


@contextlib.contextmanager
def without_asking() -> Iterator[None]:
    """In the block nothing is asked of a model, whose answer may take a step of seconds: that raises AsksModel."""
    token = _may_ask.set(False)
    try:
        yield
    finally:
        _may_ask.reset(token)


@contextlib.contextmanager
def keeping_to(longest_ctx: int) -> Iterator[None]:
    """What is too long in the block is told of a model whose longest context is this: see `ContextOverflow.keep_to`."""
    try:
        yield
    except ContextOverflow as error:
        error.keep_to(longest_ctx)
        raise


def submit(session: Session, request: Request, sink: Sink) -> int:
    """`Session.submit`, for which a text that no context of the model holds is not sent to the worker.

    Raises:
        ContextOverflow; AsksModel, as `without_asking`; what `Session.submit` raises.
    """
    if not _may_ask.get():
        raise AsksModel
    if session.was_ready:
        with keeping_to(session.longest_ctx):
            check_context(request, session.info.n_ctx)
    return session.submit(request, sink)


async def in_thread(session: Session, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread`, which in a fork may wait for ever: the event loop's pool counts threads that are not there.

    Raises:
        UsageError: in a fork.
    """
    check_process(session.made_in)
    return await asyncio.to_thread(function, *args, **kwargs)


def ask_all(session: Session, batch: Sequence[Request], read: Read[T], deadline: Deadline) -> list[T]:
    """The answers, in order, once all are there. Raises what the first one that fails raises."""
    sinks = [QueueSink() for _ in batch]
    ids: list[int] = []

    def leave() -> None:
        for sink in sinks:
            sink.put(unwanted())

    try:
        ids.extend(submit(session, request, sink) for request, sink in zip(batch, sinks, strict=True))
        with told_of_leaving(leave):
            return [read(deadline.next_of(sink), number) for number, sink in enumerate(sinks)]
    finally:
        for request_id in ids:
            session.cancel(request_id)


async def aask_all(session: Session, batch: Sequence[Request], read: Read[T], deadline: Deadline) -> list[T]:
    """As `ask_all`, for coroutines. Cancelling the task ends the requests."""
    sinks = [AsyncSink() for _ in batch]
    ids: list[int] = []
    try:
        ids.extend(submit(session, request, sink) for request, sink in zip(batch, sinks, strict=True))
        return [read(await deadline.keep(sink.get()), number) for number, sink in enumerate(sinks)]
    finally:
        for request_id in ids:
            session.cancel(request_id)


def of_kind(kind: type[T]) -> Read[T]:
    """Takes answers of that kind only, as the others cannot come."""

    def read(delivery: Delivery, _: int) -> T:
        if isinstance(delivery, EdgeLLMError):
            raise delivery
        assert isinstance(delivery, kind)
        return delivery

    return read
