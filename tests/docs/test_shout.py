"""The example plugin passes the contract that it shows, in a process where only its entry point is known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support import fake_plugins

ROOT = Path(__file__).parents[2]
SHOUT = ROOT / "docs" / "examples" / "edgellm-shout"


def test_it_passes_the_contract(tmp_path: Path) -> None:
    fake_plugins.declare(tmp_path, "shout", "edgellm_shout.plugin", "edgellm-shout", "0.1.0")
    path = os.pathsep.join([str(tmp_path), str(SHOUT), str(ROOT)])
    env = os.environ | {"PYTHONPATH": path, "EDGELLM_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", str(SHOUT), str(SHOUT / "tests")],
        env=env, capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    assert int((re.search(r"(\d+) passed", done.stdout) or ["", "0"])[1]) >= 5


def test_it_is_small_enough_to_copy() -> None:
    lines = [line for path in (SHOUT / "edgellm_shout").glob("*.py") for line in path.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) < 130
