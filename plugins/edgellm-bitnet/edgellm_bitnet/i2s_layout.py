"""In which of two orders the codes of an I2_S file lie: nothing in the file says it, the weights do.

Read in the wrong order, every row of a tensor has its columns permuted within blocks of 128, all rows alike. So no
count and no column statistic of one tensor can tell; what tells is two tensors that have an axis in common, because
rows are never permuted. In a trained model what a neuron reads and what it writes are not independent: for neuron j the
product of row j of ffn_up (or ffn_gate) and column j of ffn_down over the hidden channels, divided by its standard
deviation for independent signs, has squares of mean well above 1. Both tensors' columns have to be in the right order
for that. attn_v and attn_output are such a pair too. In the wrong order, and in random weights, the mean is 1.

Measured (docs/adr/016): for one pair of one layer the excess is 17 to 40 standard deviations in a model of 5M
weights, 100 to 1,200 in models of 135M and 270M; in the wrong order at most a fortieth of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm_bitnet.codecs import i2_s
from edgellm_bitnet.codecs.i2_s import Layout
from edgellm_bitnet.ternary import Codes, Floats

KEY = "edgellm.i2_s_layout"  # what our own files say
LAYOUTS: tuple[Layout, Layout] = ("x86", "arm")
LEAST = 8.0  # standard deviations in favour of the order that is taken
RATIO = 3.0  # how often the other order's evidence has to go into it
BLOCK = 128
MAX_BLOCKS = 8  # 1024 neurons of a layer
MAX_LAYERS = 6


class Packed(NamedTuple):
    """One I2_S tensor as it lies in the file."""

    raw: Codes
    rows: int
    cols: int


Find = Callable[[str], Packed | None]  # of a tensor's name; None where there is none of type I2_S


@dataclass(frozen=True, slots=True)
class Evidence:
    """Standard deviations in favour of each order."""

    x86: float
    arm: float
    pairs: int  # of tensors that were compared

    def best(self) -> Layout | None:
        """None where neither order stands out."""
        for name, one, other in (("x86", self.x86, self.arm), ("arm", self.arm, self.x86)):
            if one >= LEAST and one >= RATIO * other:
                return "x86" if name == "x86" else "arm"
        return None


def resolve(find: Find, n_layer: int, head_dim: int, *, asked: str, declared: object, where: str) -> Layout:
    """The order to read the file in: what was asked for, else what the file says (`KEY`), else what its weights show.

    Raises:
        BadArtifact: the file says something else. UnsupportedArtifact: it says nothing, and its weights neither.
    """
    layout = asked or declared
    if layout is not None:
        for name in LAYOUTS:
            if layout == name:
                return name
        raise BadArtifact(f"{where}: {KEY} is {layout!r}, x86 and arm are known", hint="give --i2s-layout x86 or arm")
    shown = evidence(find, n_layer, head_dim)
    best = shown.best()
    if best is None:
        raise UnsupportedArtifact(
            f"{where} does not say in which order its I2_S codes lie, and its weights do not show it: {shown.pairs} "
            f"pairs of tensors speak for x86 with {shown.x86:.1f}, for arm with {shown.arm:.1f} standard deviations, "
            f"{LEAST:g} are needed",
            hint="give --i2s-layout x86 for a file of bitnet.cpp's converter, arm for one of its llama-quantize on Arm",
        )
    return best


def evidence(find: Find, n_layer: int, head_dim: int) -> Evidence:
    """What the weights say, from up to six layers."""
    layers = sorted({round(i) for i in np.linspace(0, n_layer - 1, min(n_layer, MAX_LAYERS))})
    excess: dict[Layout, list[float]] = {name: [] for name in LAYOUTS}
    for layer in layers:
        for reads, writes in (("ffn_up", "ffn_down"), ("ffn_gate", "ffn_down"), ("attn_v", "attn_output")):
            reader, writer = find(f"blk.{layer}.{reads}.weight"), find(f"blk.{layer}.{writes}.weight")
            if reader is None or writer is None or not _paired(reader, writer, head_dim):
                continue
            for name in LAYOUTS:
                excess[name].append(_excess(reader, writer, head_dim, name))
    pairs = len(excess["x86"])
    total = {name: sum(values) / max(1, pairs) ** 0.5 for name, values in excess.items()}
    return Evidence(total["x86"], total["arm"], pairs)


def _paired(reader: Packed, writer: Packed, head_dim: int) -> bool:
    """Whether each row of `reader` belongs to one or more columns of `writer`, in whole blocks."""
    whole = reader.cols % BLOCK == 0 and writer.cols % BLOCK == 0 and reader.cols == writer.rows
    grouped = head_dim > 0 and reader.rows % head_dim == 0 and writer.cols % reader.rows == 0
    return whole and (reader.rows == writer.cols or grouped)


def _excess(reader: Packed, writer: Packed, head_dim: int, layout: Layout) -> float:
    """(mean square of the products - 1) in standard deviations of a mean of as many independent ones."""
    n_blocks = writer.cols // BLOCK
    blocks = np.unique(np.linspace(0, n_blocks - 1, min(n_blocks, MAX_BLOCKS)).astype(np.int64))
    columns = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    rows = columns
    if reader.rows != writer.cols:  # several query heads share one value head
        rows = columns // head_dim // (writer.cols // reader.rows) * head_dim + columns % head_dim
    packed = i2_s.raw_codes(reader.raw, reader.rows, reader.cols, "tensor")
    reads = _signs(packed.reshape(reader.rows, -1)[rows], layout).reshape(len(rows), reader.cols)
    packed = i2_s.raw_codes(writer.raw, writer.rows, writer.cols, "tensor")
    writes = _signs(packed.reshape(writer.rows, n_blocks, -1)[:, blocks], layout).reshape(writer.rows, len(columns)).T
    product = np.einsum("jh,jh->j", reads, writes)
    variance = np.einsum("jh,jh->j", np.abs(reads), np.abs(writes))
    squares = product * product / np.maximum(variance, 1)
    return float((squares - 1).sum() / np.sqrt(2 * len(squares)))


def _signs(packed: Codes, layout: Layout) -> Floats:
    return i2_s.unpack(np.ascontiguousarray(packed), layout).astype(np.float32) - np.float32(1)
