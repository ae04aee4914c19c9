"""A quantizer of a plugin that fails is told with its backend, its line and whom that is for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import fake_plugins
from support.refusals import refuses

from edgellm.contract.quantizer import Quantization
from edgellm.errors import BackendError, EdgeLLMError, WorkerCrashed
from edgellm.runtime.quantize_worker import quantize
from edgellm.types.model import Artifact

QUANTIZES = """
import os
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl

class Acme(EchoBackend):
    name = "acme"
    quantizes_to = frozenset({{"Q4_K_M"}})

    def quantize(self, job, progress):
        {}

@hookimpl
def register_backends(register):
    register(Acme())
"""


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        ("raise KeyError('z')", BackendError),
        ("raise SystemExit(3)", BackendError),
        ("return job", BackendError),
        ("progress('a', None, 7)", BackendError),
        ("os._exit(5)", WorkerCrashed),
        ("os.kill(os.getpid(), 6)", WorkerCrashed),
    ],
    ids=["raises", "leaves", "returns", "progress", "exits", "aborts"],
)
def test_a_quantizer_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, kind: type[EdgeLLMError]
) -> None:
    fake_plugins.install(tmp_path, "acme", QUANTIZES.format(does))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("EDGELLM_PLUGINS", "acme")

    with refuses(kind):
        quantize("acme", Quantization(Artifact("gguf", ("m",), "m"), str(tmp_path / "x"), "Q4_K_M"), lambda *_: None)
