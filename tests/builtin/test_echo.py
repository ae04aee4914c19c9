"""The built-in backend keeps the contract, bit for bit."""

from edgellm.testing import BackendContract, EmbedderContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings


class TestEcho(BackendContract):
    leak_bytes = 8 * 1024**2

    def plan(self) -> LaunchPlan:
        return LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=512, n_slots=3))


class TestEchoEmbeds(EmbedderContract):
    tolerance = 0.0

    def plan(self) -> LaunchPlan:
        return LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=512, n_slots=1))
