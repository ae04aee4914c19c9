"""What a `hf://` URI names, and which of a repository's files that is. Asks nobody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgellm.errors import SourceError, UnknownModel
from edgellm.store.names import parts_of, stem_of
from edgellm.store.onnx_names import SUFFIX, onnx_files

_URI = re.compile(
    r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*?)(?:@(?P<revision>[\w.-]+))?(?::(?P<quant>[\w-]+)|/(?P<file>[^:#?\\]+))?"
)
_NOT_MODELS = re.compile(r"(^|[-._/])(mmproj|imatrix|mtp|draft)([-._]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubUri:
    """What a `hf://` URI names: a file, a quantization, or, with neither, all that the repository has."""

    repo: str
    revision: str | None
    file: str
    quant: str


def parse(uri: str) -> HubUri:
    """
    Raises:
        SourceError: not a `hf://` URI of a file or a quantization.
    """
    match = _URI.fullmatch(uri)
    if match is None or ".." in (match["file"] or "").split("/"):
        raise SourceError(f"{uri!r} is no hub source", hint="write hf://OWNER/REPO/FILE.gguf or hf://OWNER/REPO:QUANT")
    return HubUri(match["repo"], match["revision"], match["file"] or "", match["quant"] or "")


def choose(names: Sequence[str], where: HubUri) -> list[str]:
    """The repository's files of one quantization, or of one ONNX graph: all parts, in order.

    Where several models match (a plain one and a hand-made mix), the one with the shortest name.

    Raises:
        UnknownModel: no file of that quantization; says which there are.
    """
    if where.file.endswith(SUFFIX):
        if where.file not in names:
            have = ", ".join(sorted(name for name in names if name.endswith(SUFFIX))[:12]) or "no ONNX file at all"
            raise UnknownModel(f"{where.repo} has no {where.file}", hint=f"it has: {have}")
        return onnx_files(names, where.file)
    models = [name for name in names if name.lower().endswith(".gguf") and not _NOT_MODELS.search(name)]
    if not where.quant:
        found = firsts(names)
        if len(found) == 1:
            return parts_of(found[0])
        have = ", ".join(PurePosixPath(name).name for name in found[:12]) or "no GGUF file at all"
        raise UnknownModel(f"{where.repo} has {len(found)} models", hint=f"name a quantization or one of: {have}")
    wanted = re.compile(rf"(^|[-._/]){re.escape(where.quant)}(?=[-.]|$)", re.IGNORECASE)
    matching = [name for name in models if wanted.search(stem_of(name))]
    if not matching:
        have = ", ".join(sorted(PurePosixPath(name).name for name in models)[:12]) or "no GGUF file at all"
        raise UnknownModel(f"{where.repo} has no file of quantization {where.quant}", hint=f"it has: {have}")
    parts = parts_of(min(matching, key=lambda name: (len(stem_of(name)), name)))
    missing = [part for part in parts if part not in names]
    if missing:
        raise SourceError(f"{where.repo} lacks {len(missing)} of {len(parts)} parts: {', '.join(missing[:3])}")
    return parts


def firsts(names: Sequence[str]) -> list[str]:
    """Names of models, of a split one its first part, where all its parts are there."""
    models = [name for name in names if name.lower().endswith(".gguf") and not _NOT_MODELS.search(name)]
    return sorted({parts_of(name)[0] for name in models if set(parts_of(name)) <= set(names)})
