"""The footprint against what a process of its own really takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from edgellm_onnx.footprint import footprint, weights
from edgellm_onnx.model import read_model
from edgellm_onnx.options import Options
from edgellm_onnx.plugin import OnnxBackend
from edgellm_onnx.reader.graph import read_graph
from support import onnx_models
from support.onnx_models import Tiny

from edgellm.types.model import Artifact
from edgellm.types.plan import Settings

MIB = 1 << 20
# Large enough that weights, cache and scratch stand out of the process itself.
WIDE = Tiny(layers=4, hidden=512, ffn=1536, heads=8, kv_heads=4, vocab=4096, external=True)
CHILD = """
import re, sys
from edgellm.contract.engine import SlotInput
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_onnx.plugin import OnnxBackend
settings = Settings({n_ctx}, {n_slots}, n_batch=256)
engine = OnnxBackend().open(LaunchPlan("onnx", Artifact("onnx", ({folder!r},), "t"), settings))
for slot in range({n_slots}):
    for start in range(0, {n_ctx}, 256):
        engine.step([SlotInput(slot, start, (7,) * 256, 1)])
print(1024 * int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read()).group(1)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "tiny"),
    [("shared", WIDE), ("shared", Tiny(**{**WIDE.__dict__, "bits": 4, "num_logits": True})), ("growing", WIDE)],
    ids=["shared", "shared, 4 bits", "growing"],
)
@pytest.mark.slow(2)
def test_it_is_what_a_worker_takes(tmp_path, kind, tiny):
    folder = onnx_models.KINDS[kind](tmp_path, tiny)
    code = CHILD.format(folder=str(folder), n_ctx=512, n_slots=3)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken = int(done.stdout)
    found = footprint(read_model(folder), Settings(512, 3, n_batch=256), Options())

    assert abs(found.resident_bytes - taken) < 0.12 * taken, (found.terms(), taken / MIB)


def test_weights_are_copied_or_stay(tmp_path):
    folder = onnx_models.shared(tmp_path, Tiny(bits=4))
    graph = read_graph(folder / "model.onnx")
    kept, copied = weights(graph, prepack=True)
    codes = sum(tensor.n_bytes for name, tensor in graph.initializers.items() if name.endswith(".codes"))
    scales = sum(tensor.n_bytes for name, tensor in graph.initializers.items() if name.endswith(".scales"))
    assert (kept, copied) == (graph.tensor_bytes - codes - scales, codes + 2 * scales)
    assert weights(graph, prepack=False) == (graph.tensor_bytes, 0)


def test_a_cache_that_grows_has_one_set_to_spare(tmp_path):
    artifact = Artifact("onnx", (str(onnx_models.growing(tmp_path)),), "t")
    cell = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, dim, float32
    assert OnnxBackend().footprint(artifact, Settings(256, 3)).kv_bytes == cell * 256 * 4
    shared = Artifact("onnx", (str(onnx_models.shared(tmp_path / "s")),), "t")
    assert OnnxBackend().footprint(shared, Settings(256, 3)).kv_bytes == cell * 256 * 3
