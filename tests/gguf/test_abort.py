"""What ggml does where one of its assertions fails: it must start no debugger, and leave no copy of the worker."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from edgellm_gguf.plugin import GgufBackend

from edgellm.contract.backend import worker_environment
from edgellm.contract.child import Child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ggml looks for gdb on Linux")
# As GGML_ASSERT does. Found beside the library that it belongs to.
ABORTS = """
import ctypes, pathlib, llama_cpp
base = next((pathlib.Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so"))
ctypes.CDLL(str(base)).ggml_abort(b"file.c", 1, b"a failed assertion")
"""
GDB = """#!/bin/sh
echo "$@" > "$0.asked"
"""


def test_a_failed_assertion_starts_no_debugger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debugger = tmp_path / "gdb"
    debugger.write_text(GDB)
    debugger.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with Child([sys.executable, "-c", ABORTS], env=worker_environment(GgufBackend()), question=b"") as child:
        assert list(child.lines()) == []

    assert child.end.signal == signal.SIGABRT.name
    assert "a failed assertion" in child.end.stderr
    assert not (tmp_path / "gdb.asked").exists()
