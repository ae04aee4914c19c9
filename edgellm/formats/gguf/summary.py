"""What a GGUF model's header says, in a few plain values, and a cache of them, so that each vocabulary is read once.

    cache_dir()/headers/<hash of the path>.json    valid while all parts have the same size and time

A summary is for listing, choosing and predicting. Before native code opens a file, its header is checked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm import settings
from edgellm.errors import BadArtifact
from edgellm.files import DamagedRecord, read_json_record, write_atomic
from edgellm.formats import sampling_keys
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.header import GgufHeader
from edgellm.formats.gguf.layers import layers_by_block
from edgellm.types.layers import Layers
from edgellm.types.model import Shape
from edgellm.types.sampling_defaults import NOTHING_SAID, FileSampling

_SCHEMA = 4
_MAX_BYTES = 4 * 1024**2
_TEXT = 256  # characters kept of a text that the file may choose freely


@dataclass(frozen=True, slots=True)
class Summary:
    """One model in one file or a split set."""

    version: int
    big_endian: bool
    role: str  # "model", "adapter", "mmproj", ...
    architecture: str
    name: str
    license: str
    quant: str
    types: dict[str, int]  # tensor type -> tensors
    params: int  # elements of all tensors
    tensor_bytes: int
    file_bytes: int  # of all parts
    ctx_train: int
    has_template: bool
    n_parts: int = 1
    shape: Shape | None = None  # None = no language model
    sampling: FileSampling = NOTHING_SAID
    layers: Layers | None = None  # as `shape`

    @property
    def is_model(self) -> bool:
        """A language model: not a vocabulary, an adapter or a projector."""
        return self.shape is not None


def summarize(parts: Sequence[GgufHeader]) -> Summary:
    """
    Raises:
        BadArtifact: a key that every language model has is missing, or a value is impossible.
    """
    first = parts[0]
    keys = first.metadata
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    role = _text(keys.get("general.type", "model"))
    shape = reader.shape(first, tensors) if role == "model" and tensors else None
    return Summary(
        version=first.version,
        big_endian=first.big_endian,
        role=role,
        architecture=_text(first.architecture),
        name=_text(keys.get("general.name", "")),
        license=_text(keys.get("general.license", "")),
        quant=reader.quant_name(first, tensors),
        types=dict(Counter(tensor.type.name for tensor in tensors).most_common()),
        params=sum(math.prod(tensor.dims) for tensor in tensors),
        tensor_bytes=sum(tensor.n_bytes for tensor in tensors),
        file_bytes=sum(part.file_bytes for part in parts),
        ctx_train=reader.context_length(first),
        has_template=reader.chat_template(first) is not None,
        n_parts=len(parts),
        shape=shape,
        sampling=sampling_keys.of_gguf(keys),
        layers=None if shape is None else layers_by_block(tensors, shape.n_layer),
    )


def summary_of(path: str | Path) -> Summary:
    """The summary of the model that `path` belongs to: from the cache where no part has changed, else read now.

    Raises:
        BadArtifact, UnsupportedArtifact: as `reader.read_model`.
    """
    paths = reader.part_paths(os.path.abspath(path))
    try:
        statuses = [os.stat(part) for part in paths]
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}", hint="check the path and its permissions") from error
    stamp = " ".join(f"{status.st_size}-{status.st_mtime_ns}" for status in statuses)
    return cached(paths[0], stamp) or keep(paths[0], stamp, summarize(reader.read_model(path).parts))


def cached(name: str, stamp: str) -> Summary | None:
    """What was kept of `name` (a path or an address) while it had this `stamp`, which changes when the file does."""
    try:
        entry = read_json_record(_place(name), tuple[int, str, str, Summary], _MAX_BYTES)
    except (OSError, DamagedRecord):
        return None
    return entry[3] if entry[:3] == (_SCHEMA, name, stamp) else None


def keep(name: str, stamp: str, summary: Summary) -> Summary:
    """Put `summary` into the cache, where that can be written; return it."""
    import msgspec

    place = _place(name)
    with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, msgspec.json.encode((_SCHEMA, name, stamp, summary)))
    return summary


def _place(name: str) -> Path:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return settings.current().cache_dir / "headers" / f"{digest[:32]}.json"


def _text(value: object) -> str:
    """In one line: it is shown in lines of its own."""
    return " ".join(str(value)[:_TEXT].split())
