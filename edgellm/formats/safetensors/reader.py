"""Safetensors models on disk: one file, or a folder of them with an index, mapped and read where they lie.

Headers are checked in header.py. The index is not trusted either: it may only name files of its own folder.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgellm.errors import BadArtifact
from edgellm.formats.mapped import map_file
from edgellm.formats.safetensors.header import SafetensorsHeader, SafetensorsTensor, parse_safetensors

__all__ = ["SafetensorsHeader", "SafetensorsModel", "SafetensorsTensor", "read_header", "read_safetensors"]

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_INDEX_BYTES = 32 * 1024**2
MAX_INDEXED = 262_144  # names of the index, and those in it beside tensors
MAX_TENSORS = 262_144  # of all shards
MAX_SHARDS = 1024


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class SafetensorsModel:
    """All tensors of a model. The files stay mapped as long as this, or any data taken from it."""

    paths: tuple[str, ...]
    parts: tuple[SafetensorsHeader, ...]
    tensors: Mapping[str, SafetensorsTensor]  # in file order, the shards one after another
    _views: Mapping[str, memoryview]  # tensor -> its whole file

    def raw(self, name: str) -> memoryview:
        """The tensor's bytes, read-only, from the file itself. Raises: KeyError: no such tensor."""
        tensor = self.tensors[name]
        return self._views[name][tensor.offset : tensor.offset + tensor.n_bytes]

    @property
    def mappings(self) -> tuple[mmap.mmap, ...]:
        """Of the files that have tensors."""
        return tuple(
            {id(view.obj): view.obj for view in self._views.values() if isinstance(view.obj, mmap.mmap)}.values()
        )

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.parts[0].metadata

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    @property
    def file_bytes(self) -> int:
        return sum(part.file_bytes for part in self.parts)


def read_header(path: str | Path) -> SafetensorsHeader:
    """The checked header of one file.

    Raises:
        BadArtifact: missing, not safetensors, malformed, truncated or lying about itself.
        UnsupportedArtifact: a data type not known here.
    """
    with map_file(str(path), ".safetensors") as view:
        return parse_safetensors(view, file_bytes=len(view), where=str(path))


def read_safetensors(path: str | Path) -> SafetensorsModel:
    """The model at `path`: a file, or a folder with model.safetensors or its index and shards.

    Raises:
        BadArtifact: as `read_header`; or the index and the shards disagree.
        UnsupportedArtifact: a data type not known here.
    """
    paths, promised = _paths(str(path))
    parts: list[SafetensorsHeader] = []
    tensors: dict[str, SafetensorsTensor] = {}
    views: dict[str, memoryview] = {}
    for part_path in paths:
        mapped = map_file(part_path, ".safetensors")
        part = parse_safetensors(mapped, file_bytes=len(mapped), where=part_path)
        parts.append(part if not parts else replace(part, metadata={}))  # it may have megabytes, as each of them
        view = memoryview(mapped)
        for tensor in part.tensors:
            if tensor.name in tensors:
                raise BadArtifact(f"{part_path}: tensor {tensor.name!r} is in an earlier shard too", hint=_AGAIN)
            tensors[tensor.name] = tensor
            views[tensor.name] = view
        if len(tensors) > MAX_TENSORS:
            raise BadArtifact(
                f"{part_path} brings the tensors to {len(tensors)}, {MAX_TENSORS} are allowed", hint=_AGAIN
            )
        missing = promised.get(part_path, set()) - {tensor.name for tensor in part.tensors}
        if missing:
            raise BadArtifact(
                f"{part_path} lacks {len(missing)} tensors that {INDEX} promises, as {min(missing)[:80]!r}", hint=_AGAIN
            )
    return SafetensorsModel(tuple(paths), tuple(parts), tensors, views)


_AGAIN = "the files are not of one model; fetch them again"


def _paths(path: str) -> tuple[list[str], dict[str, set[str]]]:
    """(files, names that the index promises for each)."""
    if not os.path.isdir(path):
        return [path], {}
    index = os.path.join(path, INDEX)
    if not os.path.exists(index):
        whole = os.path.join(path, FILE)
        if not os.path.exists(whole):
            raise BadArtifact(f"{path} holds neither {FILE} nor {INDEX}", hint="give a folder with a model, or a file")
        return [whole], {}
    promised: dict[str, set[str]] = {}
    for name, file in _weight_map(index).items():
        if file != os.path.basename(file) or not file.endswith(".safetensors") or set(file) & set("\\:\0"):
            raise BadArtifact(
                f"{index}: tensor {name[:80]!r} is said to be in {file[:80]!r}, which is not a file in this folder",
                hint="do not use this model: its index points elsewhere",
            )
        promised.setdefault(os.path.join(path, file), set()).add(name)
    if not 0 < len(promised) <= MAX_SHARDS:
        raise BadArtifact(f"{index} names {len(promised)} files, 1 to {MAX_SHARDS} are allowed", hint=_AGAIN)
    missing = [os.path.basename(file) for file in promised if not os.path.isfile(file)]
    if missing:
        raise BadArtifact(
            f"{len(missing)} of {len(promised)} files of {path} are missing: {', '.join(sorted(missing)[:3])}",
            hint="fetch all files of the model into one folder",
        )
    return sorted(promised), promised


def _weight_map(index: str) -> dict[str, str]:
    with map_file(index, ".safetensors") as view:
        if len(view) > MAX_INDEX_BYTES or view[:].count(b":") > MAX_INDEXED:
            raise BadArtifact(f"{index} has {len(view)} bytes, {MAX_INDEX_BYTES} are allowed", hint=_AGAIN)
        try:
            return msgspec.json.decode(view[:], type=_Index).weight_map
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadArtifact(f"{index} cannot be read: {error}", hint=_AGAIN) from None
