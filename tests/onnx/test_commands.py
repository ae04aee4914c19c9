"""The commands take an ONNX folder: predicted, planned, answered from, refused."""

from __future__ import annotations

import json
import os

import onnx
import pytest
from click.testing import CliRunner
from edgellm_onnx import calibration
from support import onnx_models
from support.onnx_models import Tiny
from support.processes import workers
from support.refusals import check_refusal

from edgellm import EdgeLLM
from edgellm.cli.main import cli
from edgellm.errors import BadArtifact
from edgellm.estimate.tensor_types import TYPES

TINY = Tiny(bits=4, external=True, num_logits=True)


@pytest.fixture
def folder(tmp_path):
    return onnx_models.shared(tmp_path / "tiny", TINY)


def test_estimate(folder):
    done = CliRunner().invoke(cli, ["estimate", str(folder), "--ctx", "512", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    text = json.dumps(found)
    assert '"onnx"' in text
    assert '"INT4"' in text


def test_a_graph_that_is_not_opened_is_not_said_to_fit(tmp_path):
    where = onnx_models.shared(tmp_path)
    graph = onnx.load(where / "model.onnx", load_external_data=False)
    graph.opset_import[0].version = 99
    onnx.save(graph, where / "model.onnx")

    done = CliRunner().invoke(cli, ["estimate", str(where), "--ctx", "512", "--json"], catch_exceptions=False)

    (report,) = json.loads(done.stdout)["estimates"]
    (problem,) = report["verdict"]["problems_facts"]
    (backend,) = (backend for backend in problem["backends"] if backend["backend"] == "onnx")
    assert (report["verdict"]["fits"], problem["kind"]) == (False, "no_backend_runs")
    assert "operator set 99" in backend["problems"][0]


def test_a_worker_answers(folder):
    before = workers()
    with EdgeLLM.load(str(folder), ctx=256) as llm:
        answer = llm.chat("Hello", max_tokens=4, temperature=0)
        assert answer.usage.completion_tokens >= 1
        assert llm.info.details["library"].startswith("onnxruntime")
        assert "onnx" in llm.explain()
        (worker,) = workers() - before
        assert worker.environ()["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


def test_the_parent_outlives_a_folder_that_lies(folder):
    os.truncate(folder / "model.onnx.data", 1000)
    done = CliRunner().invoke(cli, ["run", str(folder), "Hello"])
    check_refusal(done.exception, BadArtifact)


def test_calibration_names_types_that_the_core_knows(monkeypatch):
    monkeypatch.setattr(calibration, "DECODE_BYTES", 1 << 20)
    monkeypatch.setattr(calibration, "PREFILL_ROWS", 64)
    found = calibration.calibrate((1,))
    assert found.decode.keys() == found.prefill.keys() == {(name, 1) for name in calibration.BITS}
    assert all(name in TYPES for name in calibration.BITS)
    assert all(rate > 0 for rate in (*found.decode.values(), *found.prefill.values()))
