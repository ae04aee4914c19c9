"""Threads that run native code have as much stack as a main thread, whatever the system gives others."""

from __future__ import annotations

import threading

import pytest

from edgellm.builtin.echo import EchoBackend
from edgellm.runtime.mailbox import Mailbox
from edgellm.runtime.prompt_reader import READ
from edgellm.runtime.reader_thread import ReaderThread
from edgellm.runtime.thread import ThreadSession
from edgellm.runtime.thread_stack import STACK_BYTES
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """By name of each thread that was started."""
    sizes: dict[str, int] = {}
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        sizes[thread.name.split("_")[0]] = threading.stack_size()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", started)
    return sizes


def test_threads_of_native_code_have_a_large_stack(stacks: dict[str, int]) -> None:
    before = threading.stack_size()
    reader = ReaderThread(Mailbox())
    reader.read(READ, lambda: None).result()
    reader.close()
    plan = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=64, n_slots=1))
    ThreadSession(plan, EchoBackend()).close()

    assert (stacks["edgellm-texts"], stacks["edgellm-loop"]) == (STACK_BYTES, STACK_BYTES)
    assert threading.stack_size() == before
