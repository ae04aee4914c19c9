"""Files that make native code compute for hours have seconds of them: the worker ends, and another answers."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.sessions import Listener
from support.tiny_bert import TinyBert

from edgellm.contract.converter import Conversion
from edgellm.errors import RunawayModel
from edgellm.runtime import worker_process
from edgellm.runtime.session import Delivery
from edgellm.runtime.supervisor import WorkerSession
from edgellm.types.event import Vectors
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import EmbeddingRequest

pytest.importorskip("tokenizers")
pytest.importorskip("edgellm_onnx")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timers of a thread's processor time are Linux's")

WORKER = """
from edgellm.runtime import processor_time, worker
processor_time.SPARE_S, processor_time.TURN_S = 0.3, 1.0
worker.main()
"""
PATTERN = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
WORD = "a" * 22 + "b"  # 80 ms on a fast machine; the library itself gives up where a single match takes more than 150


class Encoder:
    """A session of an encoder in this folder, whose worker has little time."""

    def __init__(self, backend: str, kind: str, folder: Path) -> None:
        settings = Settings(n_ctx=128, n_threads=1, n_threads_batch=1, n_batch=128)
        self.session = WorkerSession(LaunchPlan(backend, Artifact(kind, (str(folder),), "tiny"), settings))

    def embed(self, text: str) -> Delivery:
        asked = Listener()
        self.session.submit(EmbeddingRequest((text,)), asked)
        return asked.get()


@contextlib.contextmanager
def encoder(backend: str, kind: str, folder: Path) -> Iterator[Encoder]:
    opened = Encoder(backend, kind, folder)
    with contextlib.closing(opened.session):
        yield opened


@pytest.fixture(autouse=True)
def has_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "worker_command", lambda: (sys.executable, "-c", WORKER))


@pytest.mark.parametrize("n_words", [100, 400], ids=["short", "long"])
def test_a_pattern_of_nested_repeats(tmp_path: Path, n_words: int) -> None:
    folder = TinyBert(layers=1).write(tmp_path / "bert")
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pre_tokenizer": PATTERN}))
    with encoder("onnx-bert", "safetensors", folder) as hostile:
        assert isinstance(hostile.embed("a"), Vectors)
        assert isinstance(hostile.embed(WORD * n_words), RunawayModel)
        assert isinstance(hostile.embed("a"), Vectors)


def test_a_loop_in_a_graph_that_a_longer_text_begins(tmp_path: Path) -> None:
    import onnx
    from edgellm_onnx.convert_bert import convert
    from onnx import TensorProto, helper, numpy_helper

    source = Artifact("safetensors", (str(TinyBert(layers=1).write(tmp_path / "bert")),), "tiny")
    made = convert(Conversion(source, tmp_path / "made", "onnx"), lambda *_: None).path
    model = onnx.load(made / "model.onnx")
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["states" if name == output else name for name in node.output]
    scalar = helper.make_tensor_value_info
    going, value = scalar("going", TensorProto.BOOL, []), scalar("value", TensorProto.FLOAT, [])
    next_value = scalar("next", TensorProto.FLOAT, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes"]), helper.make_node("Sin", ["value"], ["next"])], "body",
        [scalar("turn", TensorProto.INT64, []), going, value], [scalar("goes", TensorProto.BOOL, []), next_value],
    )  # fmt: skip
    constants = {
        "last": np.array(1),
        "first": np.array(3),
        "each": np.array(10**12),
        "yes": np.array(True),
        "none": np.float32(0),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    model.graph.node.extend([
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "last"], ["n"]),
        helper.make_node("Sub", ["n", "first"], ["more"]),
        helper.make_node("Mul", ["more", "each"], ["turns"]),
        helper.make_node("Loop", ["turns", "yes", "none"], ["zero"], body=body),
        helper.make_node("Add", ["states", "zero"], [output]),
    ])  # fmt: skip
    onnx.save(model, made / "model.onnx")
    with encoder("onnx", "onnx", made) as hostile:
        assert isinstance(hostile.embed("a"), Vectors)
        assert isinstance(hostile.embed("a b"), RunawayModel)
        assert isinstance(hostile.embed("a"), Vectors)
