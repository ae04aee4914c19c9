"""A command before a folder that its user may not enter."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.waiting import PATIENCE_S

_BOUND = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")


def run_before(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Root, whom permissions would not hinder, gives up what lets it; skips where it cannot."""
    bound = _BOUND if os.getuid() == 0 else ()
    if bound and (shutil.which("setpriv") is None or subprocess.run([*bound, "true"], check=False).returncode):
        pytest.skip("root cannot give up its rights here")
    folder.chmod(0)
    try:
        return subprocess.run(
            [*bound, *command],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    finally:
        folder.chmod(0o700)
