"""The trained tiny model keeps the backend contract, bit for bit."""

from __future__ import annotations

import pytest
from bitnet.packed import library
from edgellm_bitnet.models import TINY_TERNARY
from support.loras import random_lora

from edgellm.testing import BackendContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

PATH = TINY_TERNARY.files[0].source.removeprefix("file:")


class OnTinyTernary(BackendContract):
    tolerance = 0.0
    kv_type = "f16"

    def adapters(self) -> tuple[str, ...]:
        return self.loras

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def adapter_files(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("adapters")
        cls.loras = tuple(str(random_lora(folder / f"{seed}.gguf", PATH, seed=seed, size=0.1)) for seed in (1, 2))

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls) -> LaunchPlan:
        library()
        settings = Settings(
            n_ctx=256, n_slots=3, n_threads=1, n_threads_batch=1, n_batch=128, kv_type=cls.kv_type
        )  # fmt: skip
        return LaunchPlan("bitnet", Artifact("gguf", (PATH,), "I2_S"), settings)

    def test_it_promises_the_same_bits(self, engine):
        assert engine.info.batch_invariant


class TestTinyTernary(OnTinyTernary):
    pass


class TestTinyTernaryWithAnInt8Cache(OnTinyTernary):
    kv_type = "q8_0"
    leak_requests = 200
