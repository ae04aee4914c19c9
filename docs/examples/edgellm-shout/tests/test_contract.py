"""Every backend passes the same contract: this is all that it takes to try yours."""

from __future__ import annotations

from edgellm.model import Artifact
from edgellm.plan import LaunchPlan, Settings
from edgellm.testing import BackendContract


class TestShout(BackendContract):
    def plan(self) -> LaunchPlan:
        return LaunchPlan("shout", Artifact("shout", (), "capitals"), Settings(n_ctx=512, n_slots=4, n_batch=64))
