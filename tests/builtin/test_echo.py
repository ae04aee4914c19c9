"""The built-in backend keeps the contract, bit for bit."""

from edgellm.model import Artifact
from edgellm.plan import LaunchPlan, Settings
from edgellm.testing import BackendContract, EmbedderContract


class TestEcho(BackendContract):
    leak_bytes = 8 * 1024**2

    def plan(self) -> LaunchPlan:
        return LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=512, n_slots=3))


class TestEchoEmbeds(EmbedderContract):
    tolerance = 0.0

    def plan(self) -> LaunchPlan:
        return LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=512, n_slots=1))
