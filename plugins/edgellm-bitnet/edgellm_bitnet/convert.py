"""Writes a ternary GGUF file from another one (`convert_gguf`) or from a Hugging Face folder (`convert_folder`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgellm.contract.converter import Conversion, Converted
from edgellm.contract.source import Progress
from edgellm.errors import UsageError
from edgellm.files import require_room
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Value
from edgellm_bitnet import i2s_layout
from edgellm_bitnet.targets import TARGETS, Changes, Table, Target, table_type, write_table

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor to be written; its bytes are made when it is its turn."""

    info: TensorInfo
    make: Callable[[], Buffer | Iterable[Buffer]]


def target(conversion: Conversion) -> Target:
    """Raises: UsageError: there is no such type, or an option that has no meaning for it."""
    if conversion.bits:
        raise UsageError("--bits has no meaning for ternary types", hint="leave it out", param="bits")
    if conversion.to not in TARGETS:
        raise UsageError(f"{conversion.to!r} is not a ternary type", hint=f"known are {', '.join(TARGETS)}", param="to")
    return TARGETS[conversion.to]


def type_keys(target: Target) -> dict[str, Value]:
    """Keys that say what the weights are; an I2_S file of ours says its order too."""
    keys: dict[str, Value] = {"general.file_type": target.file_type}
    if target.type.name == "I2_S":
        keys[i2s_layout.KEY] = "x86"
    return keys


class Source:
    """What both kinds of source have: what they become, and what there will be to say of it."""

    def __init__(self, conversion: Conversion) -> None:
        self.target = target(conversion)
        self.embedding = conversion.embedding
        self.changes = Changes()  # fills while pieces are made
        self.notes: list[str] = []

    def table(self, name: str, dims: tuple[int, ...], raw: memoryview, stored: str, where: str) -> Piece:
        """An embedding or output matrix, in the type that was asked for."""
        cols = dims[0]
        kind = table_type(self.embedding, stored, cols, where)
        table = Table(raw, math.prod(dims[1:]), cols, stored)
        return Piece(TensorInfo(name, dims, kind), lambda: write_table(table, kind.name, self.changes, where))


def write(
    conversion: Conversion, source: Source, keys: Mapping[str, Value], pieces: Sequence[Piece], progress: Progress
) -> Converted:
    """Raises: UsageError: the target cannot be written. DiskFull. ArtifactError: a tensor does not convert."""
    infos = [piece.info for piece in pieces]
    writer = GgufWriter(conversion.target, keys, infos, replace=conversion.replace)
    folder, hint = conversion.target.absolute().parent, "free space, or choose another place with --out"
    require_room(folder, writer.size_bytes, conversion.target.name, hint=hint)
    with writer:
        done = 0
        for piece in pieces:
            progress(done, writer.size_bytes, f"writing {conversion.target.name}")
            writer.write(piece.info.name, piece.make())
            done += piece.info.n_bytes
    progress(writer.size_bytes, writer.size_bytes, f"writing {conversion.target.name}")
    return Converted(conversion.target, writer.size_bytes, (*source.notes, *source.changes.notes()))
