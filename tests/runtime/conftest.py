"""Sessions for the tests of this folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psutil
import pytest
from support.sessions import ECHO, OpenSession

from edgellm.runtime.supervisor import WorkerSession
from edgellm.types.plan import LaunchPlan


def _supervisors() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "edgellm-supervisor"}


@pytest.fixture
def open_session() -> Iterator[OpenSession]:
    """Sessions that are closed at the end; then no process of theirs is left, not even a zombie."""
    before, supervisors = set(psutil.Process().children(recursive=True)), _supervisors()
    opened: list[WorkerSession] = []

    def open_one(plan: LaunchPlan = ECHO) -> WorkerSession:
        opened.append(WorkerSession(plan))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()
    assert set(psutil.Process().children(recursive=True)) <= before
    assert _supervisors() <= supervisors


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that take long enough to be interrupted."""
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.02")
