"""The wheels that `make wheels` made: in dist/, or where EDGELLM_WHEELS says."""

from __future__ import annotations

import importlib
import os
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-wheels" / "bin" / "python"  # has what made them


def folder() -> Path:
    return Path(os.environ.get("EDGELLM_WHEELS") or ROOT / "dist").resolve()


def made(name: str, platform: str, group: str = "wheels") -> Path:
    """The wheel of a distribution for a platform, of several the one that pip takes; skips, as of that group, where
    none was made."""
    wheels = list(folder().glob(f"{name}-*{platform}.whl"))
    if not wheels:
        pytest.skip(f"{group}: {folder()} has no {name} for {platform} (make wheels)")
    return max(wheels, key=lambda wheel: parse_wheel_filename(wheel.name)[1:3])


def script(name: str) -> ModuleType:
    """A module of plugins/wheels that needs nothing of what compiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "plugins" / "wheels"))
        return importlib.import_module(name)


def unpacked(name: str, platform: str, target: Path, group: str = "wheels") -> Path:
    """Its files, in the folder."""
    with zipfile.ZipFile(made(name, platform, group)) as archive:
        archive.extractall(target)
    return target
