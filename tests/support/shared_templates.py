"""Models that a test opens in its own process share one process for their chat templates: a job says all that it needs,
and a process for each model would take 0.1 s of its processor time, also where the model has no template.

A test of that process itself has `@pytest.mark.usefixtures("own_templates")`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from edgellm.app.tune import served_base
from edgellm.errors import Closed
from edgellm.sdk import client
from edgellm.text.template_process import TemplateProcess

OWNERS = (client, served_base)


@functools.cache
def _shared() -> TemplateProcess:
    return TemplateProcess()


class SharedTemplates(TemplateProcess):
    """Starts nothing, and ends nothing but itself."""

    def __init__(self, is_needed: Callable[[], bool] = lambda: True) -> None:
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        return _shared().pid

    def ask(self, job: object) -> Future[bytes]:
        if self._is_closed:
            raise Closed.of_model()
        return _shared().ask(job)  # type: ignore[arg-type]

    def abandon(self) -> None:
        self._is_closed = True

    close = abandon


@pytest.fixture(scope="session", autouse=True)
def templates_are_shared() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for owner in OWNERS:
            patch.setattr(owner, "TemplateProcess", SharedTemplates)
        yield


@pytest.fixture
def own_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model has a process of its own, as anywhere else."""
    for owner in OWNERS:
        monkeypatch.setattr(owner, "TemplateProcess", TemplateProcess)
