"""Every backend passes the same contract: this is all that it takes to try yours."""

from __future__ import annotations

from edgellm.testing import BackendContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings


class TestShout(BackendContract):
    def plan(self) -> LaunchPlan:
        return LaunchPlan("shout", Artifact("shout", (), "capitals"), Settings(n_ctx=512, n_slots=4, n_batch=64))
