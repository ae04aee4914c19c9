"""A file of the other byte order is refused before native code sees it."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from support import gguf_writer
from support.refusals import refuses

from edgellm.contract.manager import plugins
from edgellm.errors import UnsupportedArtifact
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings


@pytest.mark.skipif(sys.byteorder == "big", reason="needs a little-endian machine")
def test_a_big_endian_file_is_refused(tmp_path, monkeypatch):
    path = replace(gguf_writer.model(), order=">").write(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "edgellm_gguf.engine", None)
    plan = LaunchPlan("gguf", Artifact("gguf", (str(path),), "m"), Settings(n_ctx=64))

    with refuses(UnsupportedArtifact):
        plugins().backend("gguf").open(plan)
