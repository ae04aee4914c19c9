"""Decoders of every shape keep the backend contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import onnx_models
from support.onnx_models import Tiny

from edgellm.contract.backend import Backend
from edgellm.testing import BackendContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings


class OnTiny(BackendContract):
    """Sums are added in another order for one token than for many: the last bits of a logit differ."""

    tolerance = 1e-5
    leak_requests = 300
    kind = "shared"
    tiny = Tiny()

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls, tmp_path_factory: pytest.TempPathFactory) -> LaunchPlan:
        folder: Path = onnx_models.KINDS[cls.kind](tmp_path_factory.mktemp(cls.kind), cls.tiny)
        return LaunchPlan("onnx", Artifact("onnx", (str(folder),), "tiny"), Settings(256, n_slots=4, n_batch=128))

    @pytest.mark.slow(5)  # a missing file has no shape: TestShared asks for one in the default run
    def test_a_missing_file_is_a_typed_error(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        super().test_a_missing_file_is_a_typed_error(backend, launch_plan)


class TestShared(OnTiny):
    test_a_missing_file_is_a_typed_error = BackendContract.test_a_missing_file_is_a_typed_error

    def test_slots_are_decoded_together(self, engine):
        assert engine.info.details["slots"] == "decoded together"


class TestSharedWithAsManyLogitsAsAskedFor(OnTiny):
    tiny = Tiny(num_logits=True, external=True)
    leak_requests = 100


class TestSharedIn4Bits(OnTiny):
    tiny = Tiny(bits=4, num_logits=True)
    leak_requests = 100


class TestSharedInHalfPrecision(OnTiny):
    tiny = Tiny(dtype="float16")
    tolerance = 0.02
    leak_requests = 100


class TestGrowing(OnTiny):
    kind = "growing"

    def test_slots_are_decoded_one_after_another(self, engine):
        assert engine.info.details["slots"] == "decoded one after another"


class TestGrowingInHalfPrecision(OnTiny):
    kind, tolerance, tiny = "growing", 0.02, Tiny(dtype="float16")
    leak_requests = 100


class TestMerged(OnTiny):
    kind = "merged"
    leak_requests = 100


class TestSeparate(OnTiny):
    kind = "separate"
    leak_requests = 100
