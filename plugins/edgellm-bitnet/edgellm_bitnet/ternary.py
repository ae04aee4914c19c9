"""A ternary matrix as every codec reads and writes it: codes and scales, whatever way a file packs them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.errors import UnsupportedArtifact

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Ternary:
    """Weight [r, c] is `(codes[r, c] - 1) * scale`; the scale always multiplies, whatever its file does with it."""

    codes: Codes  # (rows, cols), values 0, 1, 2 for -1, 0, +1
    scales: Floats  # () where one holds for all, else (rows, cols // group)
    group: int = 0  # columns that share a scale; 0 = one for the whole matrix

    def __post_init__(self) -> None:
        rows, cols = self.codes.shape
        shape = (rows, cols // self.group) if self.group else ()
        if self.codes.dtype != np.uint8 or self.scales.dtype != np.float32:
            raise ValueError(f"codes are {self.codes.dtype}, scales {self.scales.dtype}; uint8 and float32 are wanted")
        if self.scales.shape != shape or (self.group and cols % self.group):
            raise ValueError(f"scales are {self.scales.shape}, groups of {self.group} in {rows} x {cols} want {shape}")
        if self.codes.max(initial=0) > 2:
            raise ValueError(f"code {self.codes.max()} is none of 0, 1, 2")
        if not (np.isfinite(self.scales).all() and (self.scales >= 0).all()):
            raise ValueError("a scale is negative, infinite or not a number")

    @property
    def rows(self) -> int:
        return int(self.codes.shape[0])

    @property
    def cols(self) -> int:
        return int(self.codes.shape[1])

    def dense(self) -> Floats:
        """The weights, float32 (rows, cols)."""
        scales = self.scales if not self.group else np.repeat(self.scales, self.group, axis=1)
        return (self.codes.astype(np.float32) - np.float32(1)) * scales

    def one_scale(self, where: str, *, target: str) -> np.float32:
        """The scale of all weights that are not 0.

        Raises:
            UnsupportedArtifact: there are several, which `target` has no room for.
        """
        return one_scale([self], where, target=target)

    def grouped(self, group: int, where: str, *, target: str) -> Floats:
        """Scales for groups of `group` columns, (rows, cols // group). The scale of zeros alone may be any.

        Raises:
            UnsupportedArtifact: weights of one such group have different scales, or rows are no multiple of it.
        """
        if self.cols % group:
            raise UnsupportedArtifact(
                f"{where} has rows of {self.cols} weights, {target} needs a multiple of {group}",
                hint="choose another type: i2_s takes multiples of 128, q2_0 of 64, tq1_0 and tq2_0 of 256",
            )
        if not self.group:
            return np.full((self.rows, self.cols // group), self.scales, np.float32)
        fine = math.gcd(group, self.group)
        scales = np.repeat(self.scales, self.group // fine, axis=1)
        if fine == group:
            return scales
        counts = self._any_weight(fine).reshape(self.rows, -1, group // fine)
        parts = scales.reshape(counts.shape)
        most = np.where(counts, parts, np.float32(0)).max(axis=2)
        if (counts & (parts != most[:, :, None])).any():
            row, block = np.argwhere((counts & (parts != most[:, :, None])).any(axis=2))[0]
            raise UnsupportedArtifact(
                f"{where} has several scales in row {row}, columns {block * group} to {(block + 1) * group - 1}; "
                f"{target} holds one for {group} columns",
                hint=f"choose a type with smaller blocks: its scales hold for {self.group} columns",
            )
        return np.asarray(most, np.float32)

    @property
    def used_scales(self) -> Floats:
        """Those of weights that are not 0, each once, in order."""
        return np.unique(self.scales[self._any_weight(self.group)] if self.group else self.scales)

    def _any_weight(self, group: int) -> npt.NDArray[np.bool_]:
        """Whether a group holds anything but zeros, (rows, cols // group)."""
        return np.asarray((self.codes != 1).reshape(self.rows, -1, group).any(axis=2))


def one_scale(pieces: Iterable[Ternary], where: str, *, target: str) -> np.float32:
    """The scale of all weights of a matrix that are not 0; it comes in pieces.

    Raises:
        UnsupportedArtifact: there are several, which `target` has no room for.
    """
    used, largest = np.empty(0, np.float32), np.float32(0)
    for piece in pieces:
        used = np.union1d(used, piece.used_scales)
        largest = max(largest, piece.scales.max(initial=0))
    if len(used) > 1:
        raise UnsupportedArtifact(
            f"{where} has {len(used)} scales from {used[0]:g} to {used[-1]:g}, {target} holds one a tensor",
            hint="choose a type with a scale for each block, as q2_0 or tq2_0",
        )
    return np.float32(used[0] if len(used) else largest)
