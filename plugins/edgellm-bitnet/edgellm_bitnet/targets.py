"""What a converter can write: ternary types, types of tables, and which of them change a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from edgellm.errors import UnsupportedArtifact, UsageError
from edgellm.formats.gguf.ggml_types import BY_NAME, GgmlType
from edgellm_bitnet.codecs import floats, i2_s, q1_0, q2_0, q6_k, q8_0, tq1_0, tq2_0
from edgellm_bitnet.ternary import Ternary

CHUNK_BYTES = 64 * 1024**2  # of float32 held at once while a table is written
_ENCODERS = {"Q8_0": q8_0.encode, "Q6_K": q6_k.encode}
_DECODERS = {"Q8_0": q8_0.decode, "Q6_K": q6_k.decode}
TABLES = ("F32", "F16", "BF16", "Q8_0", "Q6_K")


@dataclass(frozen=True, slots=True)
class Target:
    """A ternary type of GGUF tensors."""

    type: GgmlType
    file_type: int  # general.file_type: llama.cpp's, for I2_S bitnet.cpp's
    multiple: int  # rows are a multiple of it
    encode: Callable[..., bytes]
    halves: bool  # scales are float16

    def check(self, rows: int, cols: int, where: str) -> None:
        """Raises: UnsupportedArtifact: it cannot hold a matrix of that shape."""
        if cols % self.multiple:
            fitting = [name for name, other in TARGETS.items() if cols % other.multiple == 0]
            raise UnsupportedArtifact(
                f"{where} is {rows} x {cols}; {self.type.name} needs rows of a multiple of {self.multiple} weights",
                hint=f"types that fit: {', '.join(fitting)}" if fitting else "no ternary type of GGUF fits",
            )


TARGETS = {
    "i2_s": Target(BY_NAME["I2_S"], 40, 128, i2_s.encode, halves=False),
    "tq2_0": Target(BY_NAME["TQ2_0"], 37, tq2_0.BLOCK, tq2_0.encode, halves=True),
    "tq1_0": Target(BY_NAME["TQ1_0"], 36, tq1_0.BLOCK, tq1_0.encode, halves=True),
    "q2_0": Target(BY_NAME["Q2_0"], 41, q2_0.BLOCK, q2_0.encode, halves=True),
    "q1_0": Target(BY_NAME["Q1_0"], 40, q1_0.BLOCK, q1_0.encode, halves=True),
}


@dataclass(slots=True)
class Changes:
    """Counts every value that is not what it was."""

    rounded: int = 0  # tensors whose scales were
    largest: float = 0.0  # relative change of a scale
    quantized: int = 0  # tensors, from master weights
    # "token_embd.weight, BF16 to Q6_K" -> root mean square error
    tables: dict[str, float] = field(default_factory=dict)

    def notes(self) -> list[str]:
        lines = []
        if self.quantized:
            lines.append(f"{self.quantized} tensors were quantized as in training: one scale, the mean of |w|.")
        if self.rounded:
            lines.append(
                f"Scales of {self.rounded} tensors were rounded to half precision, by {self.largest:.1e} of the scale "
                "at most."
            )
        lines += [f"{name}: root mean square error {error:.2g}." for name, error in self.tables.items()]
        return lines


def write_ternary(target: Target, ternary: Ternary, changes: Changes, where: str) -> bytes:
    """The tensor's bytes.

    Raises:
        UnsupportedArtifact: its scales or zeros do not go into the type.
    """
    if target.halves:
        scales = ternary.scales.astype(np.float64)
        with np.errstate(over="ignore"):
            halves = ternary.scales.astype(np.float16).astype(np.float64)
        off = np.abs(halves - scales)
        if off.any():
            changes.rounded += 1
            changes.largest = max(changes.largest, float((off[scales > 0] / scales[scales > 0]).max()))
    return target.encode(ternary, where=where)


def table_type(name: str, stored: str, cols: int, where: str) -> GgmlType:
    """Type in which a table is written; `asked` is "" to keep what is stored.

    Raises:
        UsageError: no such type. UnsupportedArtifact: it is quantized already, or rows are no whole blocks.
    """
    if not name or name.upper() == stored:
        return BY_NAME[stored]
    kind = name.upper()
    if kind not in TABLES:
        names = ", ".join(TABLES).lower()
        raise UsageError(f"--embedding {name} is not known", hint=f"known are {names}", param="embedding")
    if stored not in floats.BYTES:
        raise UnsupportedArtifact(
            f"{where} is {stored} already; only F32, F16 and BF16 are converted", hint="leave --embedding out"
        )
    if cols % BY_NAME[kind].block_elems:
        raise UnsupportedArtifact(
            f"{where} has rows of {cols} values, {kind} needs a multiple of {BY_NAME[kind].block_elems}",
            hint="choose another type for --embedding",
        )
    return BY_NAME[kind]


@dataclass(frozen=True, slots=True)
class Table:
    """An embedding or output matrix, or a norm, as a file holds it."""

    raw: memoryview
    rows: int
    cols: int
    type: str


def write_table(table: Table, to: str, changes: Changes, where: str) -> Iterator[bytes | memoryview]:
    """The table in type `to`, some rows at a time.

    Raises:
        UnsupportedArtifact: a value is none, or too large for float16.
    """
    view, rows, cols, stored = table.raw, table.rows, table.cols, table.type
    if stored == to:
        yield view
        return
    step = max(1, CHUNK_BYTES // (4 * cols))
    row_bytes, squares = cols * floats.BYTES[stored], 0.0
    for first in range(0, rows, step):
        count = min(step, rows - first)
        piece = view[first * row_bytes : (first + count) * row_bytes]
        values = floats.decode(piece, count * cols, stored, where=where).reshape(count, cols)
        if not np.isfinite(values).all() or (to == "F16" and np.abs(values).max() > 65504):
            raise UnsupportedArtifact(
                f"{where} has a value that {to} cannot hold in rows {first} to {first + count - 1}",
                hint="choose bf16 or f32 for --embedding",
            )
        data = _ENCODERS[to](values) if to in _ENCODERS else floats.encode(values, to)
        back = _DECODERS[to](data) if to in _DECODERS else floats.decode(data, values.size, to)
        squares += float(np.square(back - values.reshape(-1), dtype=np.float64).sum())
        yield data
    if squares:
        changes.tables[f"{where.rpartition(' ')[2]}, {stored} to {to}"] = (squares / (rows * cols)) ** 0.5
