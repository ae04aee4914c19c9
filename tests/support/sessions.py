"""Sessions of the echo model in a worker, for tests that kill, stop and close it."""

from __future__ import annotations

import queue
from collections.abc import Callable

import psutil

from edgellm.errors import EdgeLLMError
from edgellm.runtime.session import Delivery
from edgellm.runtime.supervisor import WorkerSession
from edgellm.types.event import Delta, Done
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling
from support.waiting import PATIENCE_S

ECHO = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=4096, n_slots=3))
LONG = "a long answer " * 60
OpenSession = Callable[..., WorkerSession]


class Listener:
    """A sink that is waited for with patience, and that notices an event after the end."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._ended = False
        self.after_the_end = 0

    def put(self, outcome: Delivery) -> None:
        self.after_the_end += self._ended
        self._ended = not isinstance(outcome, Delta)
        self._queue.put(outcome)

    def get(self) -> Delivery:
        return self._queue.get(timeout=PATIENCE_S)

    def end(self) -> tuple[str, Done | EdgeLLMError]:
        """All text, and how it ended."""
        text = ""
        while isinstance(outcome := self.get(), Delta):
            text += outcome.text
        return text, outcome


def greedy(prompt: str, max_tokens: int | None = None) -> GenerationRequest:
    return GenerationRequest(prompt, Sampling(temperature=0), max_tokens)


def ask(session: WorkerSession, prompt: str = LONG, max_tokens: int | None = None) -> Listener:
    listener = Listener()
    session.submit(greedy(prompt, max_tokens), listener)
    return listener


def ended(process: psutil.Process) -> bool:
    """Whether it runs no more, be it that nobody has asked for its status yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
