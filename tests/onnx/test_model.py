"""What is refused by looking at headers, before onnxruntime sees a file."""

from __future__ import annotations

import os
import subprocess
import sys

import onnx
import pytest
from edgellm_onnx import library
from edgellm_onnx.model import is_encoder, read_model
from edgellm_onnx.plugin import OnnxBackend
from edgellm_onnx.reader.graph import read_graph
from onnx import TensorProto, helper
from support import onnx_models
from support.onnx_models import Tiny
from support.refusals import refuses

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings


def changed(folder, change):
    path = next(folder.glob("*.onnx"))
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return folder


def opset(model, version):
    model.opset_import[0].version = version


def extra_input(model):
    model.graph.input.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 224, 224]))


def drop(field, name):
    def change(model):
        values = getattr(model.graph, field)
        kept = [value for value in values if name not in value.name]
        del values[:]
        values.extend(kept)

    return change


def retyped(name, kind):
    def change(model):
        for value in [*model.graph.input, *model.graph.output]:
            if value.name.startswith(name):
                value.type.tensor_type.elem_type = kind

    return change


CASES = {
    "an opset of the future": lambda m: opset(m, 99),
    "an opset of the past": lambda m: opset(m, 3),
    "an operator nobody has": lambda m: m.graph.node.append(
        helper.make_node("Warp", ["logits"], ["w"], domain="com.microsoft")
    ),
    "a domain nobody has": lambda m: m.graph.node.append(
        helper.make_node("Scan", ["logits"], ["w"], domain="com.acme")
    ),
    "a picture": extra_input,
    "no tokens": drop("input", "input_ids"),
    "no logits": drop("output", "logits"),
    "no cache": drop("output", "present"),
    "a cache of doubles": retyped(("past", "present"), TensorProto.DOUBLE),
    "tokens as floats": retyped("input_ids", TensorProto.FLOAT),
    "logits as integers": retyped("logits", TensorProto.INT8),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["shared", "growing"])
def test_what_cannot_run_is_told_from_the_header(tmp_path, kind, name):
    change = CASES[name]
    folder = changed(onnx_models.KINDS[kind](tmp_path), change)
    artifact = Artifact("onnx", (str(folder),), "t")

    (reason,) = OnnxBackend().supports(artifact)

    with refuses(UnsupportedArtifact, varies=r"(?<=onnxruntime )[\d.]+|(?<=7 to )\d+"):
        OnnxBackend().open(LaunchPlan("onnx", artifact, Settings(128)))
    assert str(folder) in reason


def test_data_that_is_missing_is_told_before_anything_is_loaded(tmp_path):
    folder = onnx_models.shared(tmp_path, Tiny(external=True))
    os.remove(folder / "model.onnx.data")
    (reason,) = OnnxBackend().supports(Artifact("onnx", (str(folder),), "t"))
    assert "which is missing" in reason


def test_what_the_header_allows_and_onnxruntime_does_not(tmp_path):
    """Shapes that contradict each other are found when the session is made: in the worker, as a typed error."""

    def wrong_head(model):
        head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
        head.dims[:] = [head.dims[0] // 2, head.dims[1] * 2]

    folder = changed(onnx_models.growing(tmp_path), wrong_head)
    assert OnnxBackend().supports(Artifact("onnx", (str(folder),), "t")) == []
    with refuses(BadArtifact, varies="(?<=opened: ).*|(?<=valid ONNX model: ).*"):
        OnnxBackend().open(LaunchPlan("onnx", Artifact("onnx", (str(folder),), "t"), Settings(128)))


def test_a_graph_that_the_onnx_project_s_checker_refuses(tmp_path):
    def loop(model):
        model.graph.node[0].input[0] = model.graph.node[-1].output[0]

    folder = changed(onnx_models.growing(tmp_path), loop)
    with refuses(BadArtifact, varies="(?<=opened: ).*|(?<=valid ONNX model: ).*"):
        OnnxBackend().open(LaunchPlan("onnx", Artifact("onnx", (str(folder),), "t"), Settings(128)))


def test_encoders_are_told_from_decoders(tmp_path):
    ends = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])]
    out = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "s", 8])]
    table = helper.make_tensor("w", TensorProto.FLOAT, [4, 8], [0.0] * 32)
    node = helper.make_node("Gather", ["w", "input_ids"], ["last_hidden_state"])
    graph = helper.make_graph([node], "g", ends, out, [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    assert is_encoder(read_graph(tmp_path / "model.onnx"))
    assert read_model(tmp_path).signature is None
    assert not is_encoder(read_graph(onnx_models.shared(tmp_path / "d") / "model.onnx"))


def test_the_library_is_asked_once_and_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    found = library.verdict()
    assert (found.problem, "CPUExecutionProvider" in found.providers) == ("", True)
    assert "GroupQueryAttention" in found.operators["com.microsoft"]
    assert found.opset >= 21
    monkeypatch.setattr(library, "_probe", lambda: pytest.fail("asked twice"))
    assert library.verdict() == found


def test_a_library_that_does_not_load_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    monkeypatch.setenv("EDGELLM_PYTHON", "false")
    assert "does not load" in OnnxBackend().check(None)[0]


def test_the_parent_plans_without_the_library(tmp_path):
    """What is asked before a worker starts: no onnxruntime, onnx or numpy comes in."""
    folder = onnx_models.shared(tmp_path)
    code = f"""
import sys
from edgellm.catalog.identify import identify
from edgellm.types.plan import Settings
from edgellm_onnx.plugin import OnnxBackend
artifact, backend = identify({str(folder)!r}), OnnxBackend()
assert backend.supports(artifact) == [] and backend.footprint(artifact, Settings(256)) and backend.describe()
print(sorted({{"onnx", "onnxruntime", "numpy", "tokenizers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
