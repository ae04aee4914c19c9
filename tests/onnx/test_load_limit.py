"""Kilobytes of a graph take no gigabytes and no hours while they are loaded."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgellm_onnx.convert_bert import convert
from edgellm_onnx.opening import open_engine
from edgellm_onnx.options import Options
from onnx import helper, numpy_helper
from support.refusals import refuses
from support.tiny_bert import TinyBert

from edgellm.contract.child import End
from edgellm.contract.converter import Conversion
from edgellm.errors import UnsupportedArtifact
from edgellm.runtime.worker_end import how_it_ended
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what is mapped on Linux only")

ENDLESS = """
from edgellm_onnx import load_limit
load_limit.LEAST_S = 0.1
with load_limit.limited_load(0, 1):
    while True: pass
"""


def test_a_constant_of_gigabytes_is_refused(tmp_path: Path) -> None:
    import resource

    source = Artifact("safetensors", (str(TinyBert(layers=1).write(tmp_path / "bert")),), "tiny")
    made = convert(Conversion(source, tmp_path / "made", "onnx"), lambda *_: None).path
    model = onnx.load(made / "model.onnx")
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["states" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([700_000_000]), "many"))
    model.graph.node.extend([
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["states", "zero"], [output]),
    ])  # fmt: skip
    onnx.save(model, made / "model.onnx")
    plan = LaunchPlan("onnx", Artifact("onnx", (str(made),), "tiny"), Settings(n_ctx=64, n_threads=1, n_batch=64))
    before = resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)

    with refuses(UnsupportedArtifact):
        open_engine(plan, Options())

    assert (resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)) == before


def test_a_load_that_never_ends_is_ended(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", ENDLESS], cwd=tmp_path, check=False)
    assert child.returncode == -signal.SIGXCPU
    assert "load" in how_it_ended(End(child.returncode))
