"""A folder that appears whole or not at all: written under a name of its own, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgellm.errors import UsageError
from edgellm.files import writing

_OURS = ("genai_config.json", "model.onnx")  # a folder that has one of them may be replaced


@contextlib.contextmanager
def new_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """A folder to fill; it becomes `target` where the block ends without an error, and is removed where not.

    Raises:
        UsageError: `target` exists, or cannot be written. DiskFull: no room for it.
    """
    check(target, replace=replace)
    with writing(target, param="out"):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        with writing(target, param="out"):
            yield part
            _finish(part)
            check(target, replace=replace)
            if target.exists():
                old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
                os.rename(target, old)
                os.rename(part, target)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check(target: Path, *, replace: bool) -> None:
    """Raises: UsageError: there is something at `target` that may not be replaced."""
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink():
        raise UsageError(f"{target} is not a folder", hint="name a folder that does not exist yet", param="out")
    if not any(target.iterdir()):
        return
    if not replace:
        raise UsageError(f"{target} exists already", hint="choose another name, or add --force", param="out")
    if not any((target / name).is_file() for name in _OURS):
        raise UsageError(
            f"{target} holds other things than a converted model, so --force does not replace it",
            hint="choose another name",
            param="out",
        )


def _finish(folder: Path) -> None:
    """Readable by others, as files of other tools are, and on the disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            os.chmod(path, 0o755)
            continue
        os.chmod(path, 0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    os.chmod(folder, 0o755)
