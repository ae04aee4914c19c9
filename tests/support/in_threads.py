"""Models in threads of the test's own process, for tests that would start a worker for each only to be answered: each
costs 0.3 s of processor time. What `isolate` changes is in the tests of `runtime` and in `tests/test_sdk.py`.
"""

from __future__ import annotations

import pytest

from edgellm.app.tune import served_base
from edgellm.contract.manager import plugins
from edgellm.runtime.supervisor import WorkerSession
from edgellm.runtime.thread import ThreadSession
from edgellm.sdk import client
from edgellm.types.plan import LaunchPlan
from support.waiting import PATIENCE_S

_open = client._open


class Joined(ThreadSession):
    def __init__(self, plan: LaunchPlan) -> None:
        super().__init__(plan, plugins().backend(plan.backend))

    def join(self) -> None:
        self._thread.join(PATIENCE_S)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model that the test's own process opens."""
    monkeypatch.setattr(client, "_open", lambda plan, *, isolate: _open(plan, isolate=False))
    monkeypatch.setattr(served_base, "WorkerSession", Joined)


@pytest.fixture
def in_processes(in_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends what `in_threads` began, where another fixture has it."""
    monkeypatch.setattr(client, "_open", _open)
    monkeypatch.setattr(served_base, "WorkerSession", WorkerSession)
