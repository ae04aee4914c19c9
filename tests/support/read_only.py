"""A command that sees a folder mounted read-only, as a program in an image does. Permissions would not hinder root."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.waiting import PATIENCE_S

_MOUNTED = 'mount --bind "$1" "$1" && mount -o remount,bind,"$0" "$1" && shift && exec "$@"'


def run_read_only(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Skips where this user may mount nothing."""
    return run_mounted(folder, "ro", *command)


def run_mounted(folder: Path, option: str, *command: str) -> subprocess.CompletedProcess[str]:
    """As if the folder were a file system that was mounted with `option`, "ro" or "noexec"."""
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNTED, option, str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("no mount of one's own can be made here")
    return subprocess.run([*unshare, *command], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
