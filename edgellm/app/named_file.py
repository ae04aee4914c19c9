"""The model at a path that somebody named: a file, a folder, or an OCI layout with one in it."""

from __future__ import annotations

from pathlib import Path

from edgellm.catalog.identify import identify
from edgellm.store import modelpack
from edgellm.types.model import Artifact


def named_file(path: str) -> Artifact:
    """What lies there.

    Raises:
        As `catalog.identify.identify` and `store.modelpack.unpacked`.
    """
    return identify(str(modelpack.unpacked(Path(path)) or path))
