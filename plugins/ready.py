"""Wheels that `make wheels` made, here or elsewhere: for a machine that has no compiler, or where none shall run.

Like `install.py`, it runs on a bare Python.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from native import Failed

WHEELS = "EDGELLM_WHEELS"
HINT = f"or name a folder of wheels in {WHEELS}: `make wheels` makes them, on another Linux machine, too"


def ready_wheels(requirement: str, checkout: Path, look_for_compilers: Callable[[], object]) -> Path | None:
    """Folder with a wheel of "name" or "name==release" to install instead of compiling; None = compile.

    The folder that the environment names is always taken, dist/ of the checkout where there is no compiler.

    Raises:
        Failed: the folder that is named has no such wheel; or there is neither a compiler nor a wheel.
    """
    name, _, release = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{release or '*'}-*.whl"
    if value := os.environ.get(WHEELS, ""):
        if any(Path(value).glob(pattern)):
            return Path(value)
        raise Failed(f"{WHEELS}={value} holds no {pattern}", "make it there: `make wheels`; or unset it to compile")
    try:
        look_for_compilers()
    except Failed as failed:
        if any((checkout / "dist").glob(pattern)):
            return checkout / "dist"
        raise Failed(failed.reason, f"{failed.hint}; {HINT}") from None
    return None


def stamps() -> list[object]:
    """Changes when the named folder's wheels do: then parts that come from them are installed again."""
    value = os.environ.get(WHEELS, "")
    return [(file.name, file.stat().st_mtime_ns) for file in sorted(Path(value).glob("*.whl"))] if value else []
