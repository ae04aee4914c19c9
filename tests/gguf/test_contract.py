"""Both real models keep the backend contract; on llama.cpp's terms where its kernels depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.loras import random_lora

from edgellm.testing import BackendContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

if TYPE_CHECKING:
    from edgellm.contract.engine import Engine

pytestmark = [pytest.mark.model, pytest.mark.timeout(1800)]

# Largest difference of a logit between kernels for one row and for many, without AMX. Measured: 1.2 for SmolLM2 Q4_1,
# 2.4 for Gemma 3 Q4_K_M (Zen 5).
TOLERANCE = 4.0


class OnLlama(BackendContract):
    """Exact where the weights lie in an AMX buffer, whose kernels compute a row alone as they do among others."""

    tolerance = TOLERANCE
    path: str
    loras: tuple[str, ...]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def adapter_files(cls, model: None, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder: Path = tmp_path_factory.mktemp("adapters")
        cls.loras = tuple(
            str(random_lora(folder / f"{seed}.gguf", cls.path, rank=8, seed=seed, size=0.1)) for seed in (1, 2)
        )

    def adapters(self) -> Sequence[str]:
        return self.loras

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls) -> LaunchPlan:
        # One thread: the threads of a library that spins at barriers crawl where other processes run.
        settings = Settings(n_ctx=256, n_slots=3, n_threads=1, n_threads_batch=1, n_batch=128)
        return LaunchPlan("gguf", Artifact("gguf", (cls.path,), "test"), settings)

    def allowed(self, engine: Engine) -> float:
        return 0.0 if "AMX" in engine.info.details["buffers"] else super().allowed(engine)

    def allowed_with_adapters(self, engine: Engine) -> float:
        return self.tolerance  # adapters lie in no AMX buffer


class TestSmolLM2(OnLlama):
    leak_requests = 200

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def model(cls, smollm2: str) -> None:
        cls.path = smollm2

    @pytest.mark.slow(6)
    def test_memory_stays_flat(self, engine: Engine) -> None:
        super().test_memory_stays_flat(engine)

    @pytest.mark.slow(4)  # of a tiny model: test_adapters.py
    def test_adapters_change_what_they_should_and_nothing_else(self, engine: Engine) -> None:
        super().test_adapters_change_what_they_should_and_nothing_else(engine)


@pytest.mark.slow(18)  # what is its own, a sliding window, is in test_engine.py, too
class TestGemma3(OnLlama):
    leak_requests = 50

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def model(cls, gemma3: str) -> None:
        cls.path = gemma3
