"""What a person should know of a quantization before it is made, in sentences."""

from __future__ import annotations

from edgellm.types.quantize_note import (
    LargerTypes,
    MatrixCovers,
    QuantizedTwice,
    QuantizeNote,
    SizeAsOf,
    SourceLostBefore,
)


def note(of: QuantizeNote) -> str:
    match of:
        case QuantizedTwice():
            return f"{quantized_twice(of)}."
        case MatrixCovers():
            return f"The importance matrix covers {of.tensors} tensors, {of.quantized} are quantized."
        case LargerTypes():
            return f"{of.tensors} tensors have rows that are not a multiple of the block and get larger types."
        case SizeAsOf():
            return f"Which types {of.quant} gives tensors is not known here; the predicted size is that of {of.like}."
        case SourceLostBefore():
            return f"The source was quantized before it became {of.quant}; what that lost stays lost."


def quantized_twice(of: QuantizedTwice) -> str:
    """What quantizing again costs, without a full stop."""
    return (
        f"{of.tensors} tensors of {of.file} are quantized already, most of them {of.from_quant}: "
        f"{of.kept_before:.1%} of the ability are left, about {of.kept_after:.1%} would be after {of.quant}"
    )
