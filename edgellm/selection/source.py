"""Where a file comes from, and whether it can be had."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm.selection.option import Option


def scheme(source: str) -> str:
    """`"hf://owner/repo:Q4_K_M"` -> `"hf"`."""
    return source.split(":", 1)[0].lower()


def is_reachable(option: Option, schemes: Collection[str] | None, *, offline: bool) -> bool:
    """Whether its file can be had: it is here, it lies on a disk, or its source answers."""
    kinds = {scheme(part) for part in option.file.source.split()}
    if option.is_local or kinds == {"file"}:
        return True
    return not offline and (schemes is None or kinds <= set(schemes))
