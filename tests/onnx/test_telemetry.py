"""Nobody is told that a model runs: not by onnxruntime either, whose builds for Linux and macOS do since 1.29."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import onnx_models

ANSWERS = """
import sys
from edgellm.sdk.client import EdgeLLM
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest

plan = LaunchPlan("onnx", Artifact("onnx", (sys.argv[1],), "tiny"), Settings(128, n_slots=1))
with EdgeLLM(plan, isolate=sys.argv[2] == "isolate") as llm:
    *_, done = llm.generate(GenerationRequest("a", max_tokens=1))
    print(done.usage.completion_tokens)
"""
# What suppresses it by itself: signs of a continuous integration, of which there are many, and of its own tests.
KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONPATH")


@pytest.mark.parametrize("how", ["isolate", "thread"])
def test_onnxruntime_keeps_no_identifier_of_the_device_and_nothing_to_send(tmp_path: Path, how: str) -> None:
    made = onnx_models.shared(tmp_path / "model", onnx_models.Tiny(layers=1))
    home = tmp_path / "home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if name in KEPT} | {"HOME": str(home)}

    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(made), how], env=env, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert [path.name for path in home.rglob("*") if "onnxruntime" in path.name or path.name == "deviceid"] == []
