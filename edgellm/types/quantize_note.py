"""What a person should know of a quantization before it is made, as data. See `edgellm.types.reason`."""

from __future__ import annotations

from edgellm.types.basis import Fact


class QuantizedTwice(Fact, frozen=True):
    """Tensors of the source are quantized already. Shares of the ability are those of the whole model."""

    tensors: int
    file: str
    from_quant: str  # the type that most of their weights have
    quant: str  # the type that they get
    kept_before: float  # share of the ability that is left in the source
    kept_after: float  # and in the result


class MatrixCovers(Fact, frozen=True):
    """Tensors that the importance matrix has values for, and tensors that are quantized."""

    tensors: int
    quantized: int


class LargerTypes(Fact, frozen=True):
    """Tensors whose rows are no multiple of the block that was asked for."""

    tensors: int


class SizeAsOf(Fact, frozen=True):
    """Nobody knows which types the tensors get, so the size that is predicted is another quantization's."""

    quant: str
    like: str


class SourceLostBefore(Fact, frozen=True):
    """The source is stored in a type without loss, and was quantized before it got there."""

    quant: str


QuantizeNote = QuantizedTwice | MatrixCovers | LargerTypes | SizeAsOf | SourceLostBefore
