"""Entry points among all that is installed. A damaged record is told, and keeps no other from being found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path

from edgellm.contract import hookspecs
from edgellm.contract.failure import told

# Of each version of the contract, and what is written where the version is forgotten or has a point too many.
_GROUPS = re.compile(r"edgellm([._-]v?\d+([._-]\d+)*|[._-]plugins?)?", re.IGNORECASE)
_ALIKE = 0.85  # of its letters, as in "edgelm.v1"
# Distributions of this project: what they register keeps its name, whatever a stranger's plugin is called.
OWN = frozenset({"edgellm-bitnet", "edgellm-gguf", "edgellm-onnx", "edgellm-ray", "edgellm-tune"})


def entries() -> tuple[list[EntryPoint], dict[str, str]]:
    """The entry points of plugins, whichever version of the contract they are for; and of distributions ("name
    version") with damaged records, why."""
    try:
        every = entry_points()
        return [entry for group in _versions(every.groups) for entry in every.select(group=group)], {}
    except Exception:  # it ends at the first that is damaged, and does not say which
        return _one_by_one()


def _versions(groups: Iterable[str]) -> Iterable[str]:
    return sorted(group for group in groups if _GROUPS.fullmatch(group) or _is_misspelt(group))


def _is_misspelt(group: str) -> bool:
    return bool(difflib.get_close_matches(group.lower(), [hookspecs.GROUP], cutoff=_ALIKE))


def _one_by_one() -> tuple[list[EntryPoint], dict[str, str]]:
    every: list[EntryPoint] = []
    damaged: dict[str, str] = {}
    seen: set[str] = set()
    for dist in distributions():
        folder = _folder(dist)
        name = folder.name.partition("-")[0].lower()
        if name in seen:  # of two versions on the path, the first counts
            continue
        seen.add(name)
        try:
            own = dist.entry_points
            every += [entry for group in _versions(own.groups) for entry in own.select(group=group)]
        except Exception as error:
            damaged[_name_of(folder)] = f"{folder / 'entry_points.txt'} cannot be read: {told(error)}"
    return every, damaged


def distribution(entry: EntryPoint) -> str:
    """ "name version" of the package that it is of.

    Raises:
        ValueError: its metadata cannot be read, which says why.
    """
    if entry.dist is None:
        return "unknown"
    path = _folder(entry.dist) / "METADATA"
    name = version = ""
    try:
        metadata = entry.dist.metadata
        if "Name" in metadata and "Version" in metadata:  # Python 3.12 and later warn of what is not there
            name, version = metadata["Name"], metadata["Version"]
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {told(error)}") from error
    if not name or not version:
        raise ValueError(f"{path} has no name or no version")
    return f"{name} {version}"


def distribution_by_folder(entry: EntryPoint) -> str:
    """The same, where its metadata cannot be read."""
    return _name_of(_folder(entry.dist)) if entry.dist else "unknown"


def _folder(dist: Distribution) -> Path:
    """Its `.dist-info`. No public name tells it where the metadata cannot be read."""
    return Path(str(getattr(dist, "_path", "unknown")))


def _name_of(folder: Path) -> str:
    name, _, version = folder.stem.partition("-")
    return f"{name} {version}".strip()
