"""The wheels that `make wheels` made: in dist/, or where EDGELLM_WHEELS says."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-wheels" / "bin" / "python"  # has what made them


def folder() -> Path:
    return Path(os.environ.get("EDGELLM_WHEELS") or ROOT / "dist").resolve()


def made(name: str, platform: str) -> Path:
    """The wheel of a distribution for a platform; skips, as group "wheels", where it was not made."""
    wheel = next(folder().glob(f"{name}-*{platform}.whl"), None)
    if wheel is None:
        pytest.skip(f"wheels: {folder()} has no {name} for {platform} (make wheels)")
    return wheel


def unpacked(name: str, platform: str, target: Path) -> Path:
    """Its files, in the folder."""
    with zipfile.ZipFile(made(name, platform)) as archive:
        archive.extractall(target)
    return target
