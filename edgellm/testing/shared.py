"""What the suites of `edgellm.testing` share: the plan of a class of tests, and the one engine that all of them use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import pytest

from edgellm.contract.manager import plugins
from edgellm.testing.limit import within
from edgellm.testing.running import try_in_worker

if TYPE_CHECKING:
    from edgellm.contract.engine import Engine
    from edgellm.types.plan import LaunchPlan


class SharedEngine:
    """Opened in a worker first, then here for all tests of the class, and closed twice."""

    limit_s: ClassVar[float] = 120.0
    hung_in: ClassVar[str] = ""  # the first test that took longer; the engine is not used after it

    def plan(self) -> LaunchPlan:
        """The plan to test with."""
        raise NotImplementedError(f"{type(self).__name__} must define plan()")

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls) -> LaunchPlan:
        launch_plan = cls().plan()
        if launch_plan.backend not in plugins().backends():
            failed = "; ".join(f"plugin {row.name}: {row.error}" for row in plugins().unheard("register_backends"))
            pytest.fail(f"no plugin registers backend {launch_plan.backend!r}. {failed}", pytrace=False)
        return launch_plan

    @pytest.fixture(scope="class")
    @classmethod
    def tried(cls, launch_plan: LaunchPlan) -> None:
        """For every test that opens anything in pytest's own process: none runs where a worker died of it."""
        try_in_worker(launch_plan, cls.limit_s)

    @pytest.fixture(scope="class")
    @classmethod
    def shared_engine(cls, launch_plan: LaunchPlan, tried: None) -> Iterator[Engine]:
        backend = plugins().backend(launch_plan.backend)
        engine = within(cls.limit_s, f"{backend.name}.open", lambda: backend.open(launch_plan))
        yield engine
        for _ in range(0 if cls.hung_in else 2):
            within(cls.limit_s, "close", engine.close)

    def refuse_hung(self) -> None:
        """Fails a test that would use an engine that has not come back."""
        if self.hung_in:
            pytest.fail(f"the engine has not come back from {self.hung_in}", pytrace=False)
