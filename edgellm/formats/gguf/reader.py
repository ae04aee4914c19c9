"""GGUF model files on disk: the checked header of one file, of a split set, and what it says of the model.

Native code is given a file only after `read_model` has accepted it. See header.py for the layout and the checks,
shape.py for what the architecture keys mean.
"""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf import fields
from edgellm.formats.gguf.cursor import LongArray, elements
from edgellm.formats.gguf.ggml_types import FILE_TYPES
from edgellm.formats.gguf.header import MAX_TENSORS, GgufHeader, GgufTensor, key_bytes, parse_gguf
from edgellm.formats.gguf.shape import array_length, context_length, shape, vocab_size
from edgellm.formats.mapped import map_file

__all__ = [
    "GgufHeader", "GgufModel", "GgufTensor", "LongArray", "array_length", "chat_template", "check_parts",
    "context_length", "quant_name", "read_array", "read_header", "read_key_bytes", "read_model", "shape", "vocab_size",
]  # fmt: skip

MAX_PARTS = 1024
_PLACE = ("split.no", "split.count")  # of a part among the others
_PART = re.compile(r"(?P<stem>.+)-(?P<no>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model in one or more files. `header` is the first file's: it alone holds the model's keys."""

    paths: tuple[str, ...]
    header: GgufHeader
    parts: tuple[GgufHeader, ...]

    @property
    def tensors(self) -> tuple[GgufTensor, ...]:
        return tuple(tensor for part in self.parts for tensor in part.tensors)

    @property
    def tensor_bytes(self) -> int:
        return sum(part.tensor_bytes for part in self.parts)

    @property
    def file_bytes(self) -> int:
        return sum(part.file_bytes for part in self.parts)


def read_header(path: str | Path) -> GgufHeader:
    """The checked header of one file.

    Raises:
        BadArtifact: missing, no GGUF, malformed, truncated or lying about itself.
        UnsupportedArtifact: a tensor type not known here.
    """
    where = str(path)
    with map_file(where, ".gguf") as view:
        return parse_gguf(view, file_bytes=len(view), where=where)


def read_array(header: GgufHeader, key: str, most: int | None = None) -> tuple[Any, ...]:
    """Every element of `header.metadata[key]` (the first `most`), read from the file now where it is long. Strings come
    as bytes then. A Python object of each takes up to 40 times its bytes: bound them first (`array_length`).

    Raises:
        KeyError: no such key, or it is no array. BadArtifact: the file was replaced since.
    """
    value = header.metadata[key]
    if isinstance(value, tuple):
        return value[:most]
    if not isinstance(value, LongArray):
        raise KeyError(f"{key} is not an array")
    wanted = value if most is None else replace(value, length=min(value.length, most))
    with _mapped_again(header) as view:
        return elements(view, wanted, big_endian=header.big_endian)


def read_key_bytes(header: GgufHeader) -> dict[str, bytes]:
    """Every key's value as a little-endian file spells it, for `writer.Encoded`.

    Raises:
        UnsupportedArtifact: the file is big-endian. BadArtifact: it was replaced since.
    """
    if header.big_endian:
        raise UnsupportedArtifact(f"{header.where} is big-endian", hint="convert it on a machine that is too")
    with _mapped_again(header) as view:
        return key_bytes(view, where=header.where)


def read_model(path: str | Path) -> GgufModel:
    """The model that `path` belongs to: the file itself, or every part of its split set, in order.

    Raises:
        BadArtifact: as `read_header`; or a part is missing, in the wrong place, or repeats a tensor; or a key has a
            value that native code would abort on.
    """
    paths = part_paths(str(path))
    parts = tuple(_part_headers(paths))
    first = parts[0]
    split_count = first.metadata.get("split.count", 0)
    if len(parts) == 1 and split_count not in (0, 1):
        raise BadArtifact(
            f"{path} is part of {split_count} split files, but is not named like one",
            hint="give all parts their published names: NAME-00001-of-00003.gguf",
        )
    if len(parts) > 1:
        check_parts(parts)
    fields.check(parts)
    return GgufModel(tuple(paths), first, parts)


def _part_headers(paths: Sequence[str]) -> Iterator[GgufHeader]:
    """Of each part; of all but the first only the keys that say which part it is. A thousand parts take no more memory
    than one file may.

    Raises:
        BadArtifact: as `read_header`; or together they have more tensors than one file may.
    """
    n_tensors = 0
    for no, path in enumerate(paths):
        part = read_header(path)
        n_tensors += len(part.tensors)
        if n_tensors > MAX_TENSORS:
            raise BadArtifact.damaged(f"{path} brings the tensors to {n_tensors}, {MAX_TENSORS} are allowed")
        place = {key: value for key, value in part.metadata.items() if key in _PLACE}
        yield part if no == 0 else replace(part, metadata=place)


def part_paths(path: str) -> list[str]:
    """Paths of all parts where `path` is named like one (`NAME-00002-of-00003.gguf`), else just `path`.

    Raises:
        BadArtifact: the name is impossible, or a part is not there.
    """
    folder, name = os.path.split(path)
    match = _PART.fullmatch(name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= int(match["no"]) <= count <= MAX_PARTS:
        raise BadArtifact(f"{name} cannot be a part: numbers run from 1 to the count, at most {MAX_PARTS}")
    paths = [os.path.join(folder, f"{match['stem']}-{no:05d}-of-{count:05d}.gguf") for no in range(1, count + 1)]
    missing = [os.path.basename(part) for part in paths if not os.path.isfile(part)]
    if missing:
        raise BadArtifact(
            f"{len(missing)} of {count} parts of {match['stem']} are missing: {', '.join(missing[:3])}",
            hint="fetch all parts into one folder",
        )
    return paths


def chat_template(header: GgufHeader) -> str | None:
    """Source of the model's chat template; None where it has none (a base model), or one too long to be one."""
    value = header.metadata.get("tokenizer.chat_template")
    return value if isinstance(value, str) and value.strip() else None


def quant_name(header: GgufHeader, tensors: tuple[GgufTensor, ...] | None = None) -> str:
    """The quantization's public name, as `Q4_K_M`; from the file type, else the type that most bytes have.

    I2_S wins over the file type: bitnet.cpp numbers it 40, which llama.cpp gave to Q1_0 later.
    """
    by_type: Counter[str] = Counter()
    for tensor in header.tensors if tensors is None else tensors:
        by_type[tensor.type.name] += tensor.n_bytes
    if "I2_S" in by_type:
        return "I2_S"
    file_type = header.metadata.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    return by_type.most_common(1)[0][0] if by_type else ""


def check_parts(parts: Sequence[GgufHeader]) -> None:
    """The headers of a split set belong together, in this order.

    Raises:
        BadArtifact: another number or order than the files say, or a tensor that is in two of them.
    """
    names: set[str] = set()
    for no, part in enumerate(parts):
        place = tuple(map(part.metadata.get, _PLACE))
        if place != (no, len(parts)):
            raise BadArtifact(
                f"{part.where} says it is part {place[0]} of {place[1]}, its name says {no} of {len(parts)}"
            )
        for tensor in part.tensors:
            if tensor.name in names:
                raise BadArtifact(f"{part.where}: tensor {tensor.name!r} is in an earlier part too")
            names.add(tensor.name)
    total = parts[0].metadata.get("split.tensors.count", len(names))
    if total != len(names):
        raise BadArtifact(f"{parts[0].where} promises {total} tensors, its {len(parts)} parts hold {len(names)}")


def _mapped_again(header: GgufHeader) -> mmap.mmap:
    """The file of a header that was checked before.

    Raises:
        BadArtifact: it was replaced since.
    """
    view = map_file(header.where, ".gguf")
    if len(view) == header.file_bytes:
        return view
    with view:
        raise BadArtifact(f"{header.where} has {len(view)} bytes now, {header.file_bytes} when it was checked")
