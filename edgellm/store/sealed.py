"""Stores that came with a bundle. What a slot serves is never written to: nothing is mended or noted there."""

from __future__ import annotations

import os
from pathlib import Path

_FILES, _RECORD = "bundle", "slot.json"  # as `edgellm.bundle.slots` names them


def slot_of(root: Path) -> Path | None:
    """The slot whose bundle brought the store at `root`, a folder of models; None = it is no bundle's."""
    files = Path(os.path.realpath(root)).parent
    return files.parent if files.name == _FILES and os.path.lexists(files.parent / _RECORD) else None
