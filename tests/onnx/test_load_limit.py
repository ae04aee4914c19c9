"""Kilobytes of a graph take no gigabytes while they are loaded, and none that grow with a text."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgellm_onnx.convert_bert import convert
from edgellm_onnx.opening import open_engine
from edgellm_onnx.options import Options
from onnx import helper, numpy_helper
from support.refusals import refuses
from support.sessions import Listener
from support.tiny_bert import TinyBert

from edgellm.contract.converter import Conversion
from edgellm.errors import BackendUnavailable, UnsupportedArtifact
from edgellm.runtime.session import Delivery
from edgellm.runtime.supervisor import WorkerSession
from edgellm.types.event import Vectors
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import EmbeddingRequest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what is mapped on Linux only")


def begun(folder: Path) -> tuple[Path, onnx.ModelProto, str]:
    """A tiny encoder in a folder; its graph, whose output is called "states" now; the name that is to be given anew."""
    source = Artifact("safetensors", (str(TinyBert(layers=1).write(folder / "bert")),), "tiny")
    made = convert(Conversion(source, folder / "made", "onnx"), lambda *_: None).path
    model = onnx.load(made / "model.onnx")
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["states" if name == output else name for name in node.output]
    return made, model, output


def written(folder: Path, *size: onnx.NodeProto, **constants: int) -> Path:
    """An encoder that adds to its output the largest of as many zeros as the value "size" says."""
    made, model, output = begun(folder)
    values = [numpy_helper.from_array(np.array([value]), name) for name, value in constants.items()]
    model.graph.initializer.extend(values)
    model.graph.node.extend([
        *size,
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["states", "zero"], [output]),
    ])  # fmt: skip
    onnx.save(model, made / "model.onnx")
    return made


def test_vectors_that_no_model_has_are_refused(tmp_path: Path) -> None:
    made, model, output = begun(tmp_path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 1024]), "times"))
    model.graph.node.append(helper.make_node("Tile", ["states", "times"], [output]))
    onnx.save(model, made / "model.onnx")

    with refuses(UnsupportedArtifact):
        open_engine(plan_of(made), Options())


def plan_of(folder: Path) -> LaunchPlan:
    return LaunchPlan("onnx", Artifact("onnx", (str(folder),), "tiny"), Settings(n_ctx=64, n_threads=1, n_batch=64))


def test_a_constant_of_gigabytes_is_refused(tmp_path: Path) -> None:
    import resource

    made = written(tmp_path, size=700_000_000)
    plan = plan_of(made)
    before = resource.getrlimit(resource.RLIMIT_DATA)

    with refuses(UnsupportedArtifact):
        open_engine(plan, Options())

    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_worker_takes_no_more_for_a_text_than_its_plan_allows(tmp_path: Path) -> None:
    """The first text, of three tokens, takes 700 MB, which a load may; one of twenty takes seven times as much."""
    growing = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "last"], ["n"]),
        helper.make_node("Mul", ["n", "each"], ["size"]),
    ]
    made = written(tmp_path, *growing, last=1, each=60_000_000)
    session = WorkerSession(replace(plan_of(made), may_use_bytes=1 << 30))

    def embed(text: str) -> Delivery:
        asked = Listener()
        session.submit(EmbeddingRequest((text,)), asked)
        return asked.get()

    with contextlib.closing(session):
        assert isinstance(embed("a"), Vectors)
        refused = embed(" ".join("abcdefghijklmnopqr"))
        assert isinstance(refused, BackendUnavailable)
        assert str(made) in refused.message
        assert isinstance(embed("a"), Vectors)
        assert session.restarts == 0
