"""A pattern of a tokenizer.json that takes hours has seconds of them: the worker ends, and another answers."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest
from support.sessions import Listener
from support.tiny_bert import TinyBert

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

WORKER = "from edgellm.runtime import processor_time, worker; processor_time.SPARE_S = 0.3; worker.main()"
PATTERN = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
WORD = "a" * 22 + "b"  # 80 ms on a fast machine; the library itself gives up where a single match takes more than 150


@pytest.mark.parametrize("n_words", [100, 400], ids=["short", "long"])
def test_a_pattern_of_nested_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_words: int) -> None:
    folder = TinyBert(layers=1).write(tmp_path / "bert")
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text()) | {"pre_tokenizer": PATTERN}
    file.write_text(json.dumps(whole))
    monkeypatch.setattr(worker_process, "COMMAND", (sys.executable, "-c", WORKER))
    settings = Settings(n_ctx=128, n_threads=1, n_threads_batch=1, n_batch=128)
    session = WorkerSession(LaunchPlan("onnx-bert", Artifact("safetensors", (str(folder),), "tiny"), settings))

    def embed(text: str) -> Delivery:
        asked = Listener()
        session.submit(EmbeddingRequest((text,)), asked)
        return asked.get()

    with contextlib.closing(session):
        assert isinstance(embed("a"), Vectors)
        assert isinstance(embed(WORD * n_words), RunawayModel)
        assert isinstance(embed("a"), Vectors)
