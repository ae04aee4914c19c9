"""A converter has no more memory than its source explains."""

import sys

import numpy as np
import pytest
from support.refusals import refuses

from edgellm.app import convert as app_convert
from edgellm.contract.converter import Conversion, Converted
from edgellm.errors import UnsupportedArtifact
from edgellm.types.model import Artifact

MIB = 1024**2


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of data is Linux's")
def test_what_takes_far_more_memory_than_its_source_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(app_convert, "LEAST_BYTES", 256 * MIB)
    conversion = Conversion(Artifact("gguf", ("model.gguf",), "m", bytes=16 * MIB), tmp_path / "out", "x")

    def taking(n_bytes):
        return lambda conversion, progress: Converted(conversion.target, np.zeros(n_bytes, np.uint8).nbytes)

    with refuses(UnsupportedArtifact):
        app_convert.convert(taking(1024 * MIB), conversion, lambda *_: None)
    assert app_convert.convert(taking(64 * MIB), conversion, lambda *_: None).bytes == 64 * MIB
