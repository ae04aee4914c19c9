"""Writes a ternary GGUF file from another one (`convert_gguf`) or from a Hugging Face folder (`convert_folder`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgellm.contract.converter import Conversion, Converted, Progress
from edgellm.errors import UsageError
from edgellm.formats.gguf.ggml_types import GgmlType
from edgellm.formats.gguf.writer import Encoded, GgufWriter, TensorInfo, Value
from edgellm_bitnet import i2s_layout
from edgellm_bitnet.targets import TARGETS, Changes, Target

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor to be written; its bytes are made when it is its turn."""

    info: TensorInfo
    make: Callable[[], Buffer | Iterable[Buffer]]

    @classmethod
    def of(
        cls, name: str, dims: tuple[int, ...], kind: GgmlType, make: Callable[[], Buffer | Iterable[Buffer]]
    ) -> Piece:
        return cls(TensorInfo(name, dims, kind), make)


def target(conversion: Conversion) -> Target:
    """Raises: UsageError: there is no such type, or an option that has no meaning for it."""
    if conversion.bits:
        raise UsageError("--bits has no meaning for ternary types", hint="leave it out", param="bits")
    if conversion.to not in TARGETS:
        raise UsageError(f"{conversion.to!r} is no ternary type", hint=f"known are {', '.join(TARGETS)}", param="to")
    return TARGETS[conversion.to]


def type_keys(target: Target) -> dict[str, Value]:
    """Keys that say what the weights are; an I2_S file of ours says its order too."""
    keys: dict[str, Value] = {"general.file_type": target.file_type}
    if target.type.name == "I2_S":
        keys[i2s_layout.KEY] = "x86"
    return keys


@dataclass(frozen=True, slots=True)
class Draft:
    """A file to be written, and what there will be to say of it."""

    keys: Mapping[str, Value]
    pieces: list[Piece]
    changes: Changes  # fills while pieces are made
    notes: list[str]


def write(conversion: Conversion, draft: Draft, progress: Progress) -> Converted:
    """Raises: UsageError: the target cannot be written. DiskFull. ArtifactError: a tensor does not convert."""
    infos = [piece.info for piece in draft.pieces]
    with GgufWriter(conversion.target, draft.keys, infos, replace=conversion.replace) as writer:
        done = 0
        for piece in draft.pieces:
            progress(done, writer.size_bytes, f"writing {conversion.target.name}")
            writer.write(piece.info.name, piece.make())
            done += piece.info.n_bytes
    progress(writer.size_bytes, writer.size_bytes, f"writing {conversion.target.name}")
    return Converted(conversion.target, writer.size_bytes, (*draft.notes, *draft.changes.notes()))


def encoded(keys: Mapping[str, bytes]) -> dict[str, Value]:
    return {key: Encoded(data) for key, data in keys.items()}
