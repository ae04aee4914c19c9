"""A test that its time limit does not end tells where it is, and holds no run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

SWALLOWS = """
import signal, time

def test_swallows():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(3600)

def test_next(): ...
"""


def test_one_that_swallows_its_limit_is_named_and_the_next_runs(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from support.hard_limit import *\nfrom support import hard_limit\nhard_limit.PATIENCE_S = 0.5"
    )
    (tmp_path / "test_one.py").write_text(SWALLOWS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "own"), "-n", "1", "--timeout", "1", "-q", str(tmp_path)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout
    assert "crashed while running 'test_one.py::test_swallows'" in done.stdout
    assert "in test_swallows" in done.stderr
