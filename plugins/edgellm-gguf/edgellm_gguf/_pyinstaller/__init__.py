"""Tells PyInstaller where the hook of this package is: entry point `hook-dirs` of group `pyinstaller40`."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    return [str(Path(__file__).parent)]
