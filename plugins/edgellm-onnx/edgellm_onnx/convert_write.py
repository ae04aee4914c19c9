"""Writes a plan's tensors: blocks carried over where the operator has the same ones, made anew where not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm.contract.source import Progress
from edgellm.errors import BadArtifact
from edgellm_onnx import convert_blocks
from edgellm_onnx.convert_blocks import EXACT, Blocks
from edgellm_onnx.convert_plan import Plan
from edgellm_onnx.convert_source import CHUNK_BYTES, Floats, Source
from edgellm_onnx.graph_matrix import Matrix, Part
from edgellm_onnx.graph_store import DataFile

_HALF_MAX = 65504.0


@dataclass(slots=True)
class Error:
    """Of one kind of change: how far weights moved."""

    tensors: int = 0
    squares: float = 0.0  # of the differences
    norm: float = 0.0  # of the weights

    @property
    def relative(self) -> float:
        """Root mean square of the differences over that of the weights."""
        return (self.squares / self.norm) ** 0.5 if self.norm else 0.0


@dataclass(slots=True)
class Changes:
    """Counts what is not as it was."""

    exact: Counter[tuple[str, int]] = field(default_factory=Counter)  # (GGUF type, bits) -> tensors
    errors: dict[tuple[str, int], Error] = field(default_factory=dict)

    def count(self, kind: str, bits: int, before: Floats, after: Floats) -> None:
        error = self.errors[kind, bits]
        error.squares += float(np.square(after - before, dtype=np.float64).sum())
        error.norm += float(np.square(before, dtype=np.float64).sum())

    def notes(self) -> list[str]:
        lines = [
            f"{count} tensors of {kind} were carried over at {bits} bits, block by block, nothing rounded."
            for (kind, bits), count in sorted(self.exact.items())
            if bits != 16
        ]
        for (kind, bits), error in sorted(self.errors.items()):
            if error.squares == 0:
                lines.append(f"{error.tensors} tensors of {kind} are exact in {bits} bits.")
                continue
            how = "rounded to half precision" if bits == 16 else f"quantized anew to {bits} bits in blocks of 32"
            lines.append(
                f"{error.tensors} tensors of {kind} were {how}: root mean square error {error.relative:.2g} of theirs."
            )
        return lines


class Writer:
    """Writes one plan into a data file, some rows at a time."""

    def __init__(self, source: Source, plan: Plan, data: DataFile, progress: Progress, what: str) -> None:
        self.changes = Changes()
        self._source, self._plan, self._data = source, plan, data
        self._progress, self._what, self._done = progress, what, 0

    def write(self) -> None:
        """Raises: BadArtifact: a value that cannot be held; names the tensor."""
        for name, values in self._plan.vectors.items():
            self._append(name, values)
        for matrix in self._plan.matrices:
            for part in matrix.parts:
                self._part(matrix, part)
        self._data.check()
        self._progress(self._plan.store.n_bytes, self._plan.store.n_bytes, self._what)

    def _part(self, matrix: Matrix, part: Part) -> None:
        tensor = self._source.tensor(part.tensor, part.rows, matrix.cols)
        rows, bits = part.order(), matrix.bits
        if (part.kind, bits) in EXACT:
            self.changes.exact[part.kind, bits] += 1
        else:
            self.changes.errors.setdefault((part.kind, bits), Error()).tensors += 1
        step = max(1, CHUNK_BYTES // (4 * matrix.cols))
        for first in range(0, part.rows, step):
            chosen = rows[first : first + step]
            if (part.kind, bits) in EXACT:
                blocks = convert_blocks.carry(self._source.blocks(tensor, chosen), part.kind, bits)
                if not np.isfinite(blocks.scales).all():
                    raise self._unfit(part, "has scales that are infinite or no numbers")
                self._blocks(matrix, blocks)
            elif bits == 16:
                self._halves(matrix, part, self._source.floats(tensor, chosen))
            else:
                values = self._source.floats(tensor, chosen)
                blocks = convert_blocks.quantize(values, bits)
                self.changes.count(part.kind, bits, values, convert_blocks.dequantize(blocks, bits))
                self._blocks(matrix, blocks)

    def _halves(self, matrix: Matrix, part: Part, values: Floats) -> None:
        if np.abs(values).max() > _HALF_MAX:
            raise self._unfit(part, "has a weight that half precision cannot hold")
        halves = values.astype(np.float16)
        self.changes.count(part.kind, 16, values, halves.astype(np.float32))
        self._append(matrix.weight, halves)

    def _blocks(self, matrix: Matrix, blocks: Blocks) -> None:
        self._append(matrix.weight, blocks.packed)
        self._append(matrix.scales, blocks.scales)
        if matrix.zeros:
            self._append(matrix.zero_points, convert_blocks.pack_zeros(blocks.zeros, matrix.bits))

    def _append(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self._progress(self._done, self._plan.store.n_bytes, self._what)
        self._done += self._data.append(name, values)

    def _unfit(self, part: Part, why: str) -> BadArtifact:
        return BadArtifact(
            f"{self._source.where}: tensor {part.tensor} {why}", hint="the file is damaged, or try other --bits"
        )
