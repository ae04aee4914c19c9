"""What downloads that did not end have left in the store: its bytes are in no entry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.files import files_below, is_locked

# As `Library` names what it fetches and what it deletes.
_FOLDER = re.compile(r"\.(?P<entry>(?P<quant>.+)-[0-9a-f]{16})(?P<own>\.[0-9a-f]{8})?\.(?P<kind>incomplete|removed)")


@dataclass(frozen=True, slots=True)
class BegunDownload:
    """Of one entry of the store."""

    model_id: str  # as a folder's name
    quant: str  # "" = not known
    entry: Path  # where it would lie
    folders: tuple[Path, ...]  # what there is of it
    bytes: int
    resumes: bool  # whether the next download goes on with it
    is_running: bool  # a process has its lock: it is being fetched


def begun_downloads(root: Path) -> list[BegunDownload]:
    """Those with at least a byte, by model and quantization."""
    by_entry: dict[Path, list[tuple[Path, re.Match[str]]]] = {}
    for folder in sorted(root.glob("*/.*")):
        match = _FOLDER.fullmatch(folder.name)
        if match is not None and folder.is_dir() and not folder.is_symlink():
            by_entry.setdefault(folder.with_name(match["entry"]), []).append((folder, match))
    begun = [_begun(root, entry, left) for entry, left in by_entry.items()]
    return [download for download in begun if download.bytes]


def _begun(root: Path, entry: Path, left: Sequence[tuple[Path, re.Match[str]]]) -> BegunDownload:
    quant = left[0][1]["quant"]
    return BegunDownload(
        entry.parent.name,
        "" if quant == "file" else quant,
        entry,
        tuple(folder for folder, _ in left),
        sum(sum(files_below(folder).values()) for folder, _ in left),
        any(match["kind"] == "incomplete" and not match["own"] for _, match in left),
        is_locked(lock_of(root, entry)),
    )


def lock_of(root: Path, entry: Path) -> Path:
    return root / ".locks" / f"{entry.parent.name}.{entry.name}.lock"
