"""Work beside the event loop, in threads that all requests share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from typing import TypeVar, cast

from edgellm.contract.data_limit import lifted
from edgellm.contract.waiter import Waiter, of_this_context
from edgellm.server import errors
from edgellm.server.memory import work

T = TypeVar("T")


async def beside(call: Callable[..., T], *arguments: object) -> T:
    """What `call` returns. Where whoever waits is cancelled, it is not begun, or it is told (`contract.waiter`) and its
    end is waited for, as the thread is taken until then.

    Raises:
        HttpError: 503, there is no memory left for it; what was made until then is gone.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    told: asyncio.Future[T] = loop.create_future()
    told.add_done_callback(lambda done: done.exception())  # asyncio would log one that nobody waits for
    waiter = Waiter()
    context.run(of_this_context.set, waiter)

    def answer() -> None:
        if not waiter.begins():
            return
        result, error = _tried(lambda: context.run(call, *arguments))
        # Whoever waits must hear of it, whatever others have taken. Where the server has ended, nobody does.
        with lifted(), contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_tell, told, result, error)

    with lifted():  # a thread may have to be started
        loop.run_in_executor(None, answer)
    try:
        return await asyncio.shield(told)
    except asyncio.CancelledError:
        if waiter.leave():
            await asyncio.wait((told,))
        raise


def _tried(call: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """What it returns, or raises."""
    try:
        return work.do(call), None
    except MemoryError:
        return None, errors.out_of_memory()  # with the one that was caught goes what was made
    except BaseException as error:
        return None, error


def _tell(told: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    if error is None:
        told.set_result(cast(T, result))
    else:
        told.set_exception(error)
