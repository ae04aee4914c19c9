"""Blocks of ggml's types into values, with torch. Layouts: ggml-common.h; the order of values: ggml-quants.c."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgellm.formats.gguf.ggml_types import GgmlType

Unpack = Callable[[Tensor, torch.dtype], Tensor]


def unpack(blocks: Tensor, kind: GgmlType, dtype: torch.dtype) -> Tensor:
    """Values (rows, columns) of `blocks`, uint8 (rows, bytes of a row)."""
    rows, row_bytes = blocks.shape
    if kind.name in _PLAIN:
        return blocks.view(_PLAIN[kind.name]).to(dtype)
    raw = blocks.reshape(-1, kind.block_bytes)
    return _QUANTIZED[kind.name](raw, dtype).reshape(rows, row_bytes // kind.block_bytes * kind.block_elems)


def _half(raw: Tensor, at: int, dtype: torch.dtype) -> Tensor:
    """The F16 at byte `at` of each block, (blocks, 1)."""
    return raw[:, at : at + 2].contiguous().view(torch.float16).to(dtype)


def _nibbles(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Low halves of 16 bytes, then high halves."""
    values = torch.empty(len(raw), 32, dtype=dtype, device=raw.device)
    values[:, :16] = raw & 15
    values[:, 16:] = raw >> 4
    return values


def _fifth_bits(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Bit i of 4 bytes, as 16 at value i: (blocks, 32)."""
    bits = raw.contiguous().view(torch.int32) & (1 << torch.arange(32, dtype=torch.int32, device=raw.device))
    return (bits != 0).to(dtype).mul_(16)


def _q4_0(raw: Tensor, dtype: torch.dtype) -> Tensor:
    return _nibbles(raw[:, 2:], dtype).sub_(8).mul_(_half(raw, 0, dtype))


def _q4_1(raw: Tensor, dtype: torch.dtype) -> Tensor:
    return _nibbles(raw[:, 4:], dtype).mul_(_half(raw, 0, dtype)).add_(_half(raw, 2, dtype))


def _q5_0(raw: Tensor, dtype: torch.dtype) -> Tensor:
    return _nibbles(raw[:, 6:], dtype).add_(_fifth_bits(raw[:, 2:6], dtype)).sub_(16).mul_(_half(raw, 0, dtype))


def _q5_1(raw: Tensor, dtype: torch.dtype) -> Tensor:
    values = _nibbles(raw[:, 8:], dtype).add_(_fifth_bits(raw[:, 4:8], dtype))
    return values.mul_(_half(raw, 0, dtype)).add_(_half(raw, 2, dtype))


def _q8_0(raw: Tensor, dtype: torch.dtype) -> Tensor:
    return raw[:, 2:].view(torch.int8).to(dtype).mul_(_half(raw, 0, dtype))


def _iq4_nl(raw: Tensor, dtype: torch.dtype) -> Tensor:
    codes = torch.cat([raw[:, 2:] & 15, raw[:, 2:] >> 4], dim=1)
    values = torch.tensor(_IQ4_VALUES, dtype=dtype, device=raw.device)
    return values[codes.to(torch.int32)].mul_(_half(raw, 0, dtype))


def _q2_k(raw: Tensor, dtype: torch.dtype) -> Tensor:
    scales, codes = raw[:, :16, None], raw[:, 16:80].view(-1, 2, 1, 32)
    codes = (codes >> _shifts(raw, 0, 2, 4, 6)) & 3
    values = codes.reshape(-1, 16, 16).to(dtype)
    values.mul_((scales & 15).to(dtype).mul_(_half(raw, 80, dtype)[:, :, None]))
    return values.sub_((scales >> 4).to(dtype).mul_(_half(raw, 82, dtype)[:, :, None])).view(-1, 256)


def _q3_k(raw: Tensor, dtype: torch.dtype) -> Tensor:
    high = (raw[:, :32].view(-1, 1, 1, 32) >> _shifts(raw, *range(8)).view(1, 2, 4, 1)) & 1
    codes = ((raw[:, 32:96].view(-1, 2, 1, 32) >> _shifts(raw, 0, 2, 4, 6)) & 3) | (high << 2)
    packed = raw[:, 96:108]
    low = torch.cat([packed[:, :8] & 15, packed[:, :8] >> 4], dim=1)
    upper = (packed[:, None, 8:] >> _shifts(raw, 0, 2, 4, 6).view(1, 4, 1)) & 3
    scales = (low | (upper.reshape(-1, 16) << 4)).to(dtype).sub_(32).mul_(_half(raw, 108, dtype))
    return codes.reshape(-1, 16, 16).to(dtype).sub_(4).mul_(scales[:, :, None]).view(-1, 256)


def _q4_k(raw: Tensor, dtype: torch.dtype) -> Tensor:
    return _with_six_bits(raw, (raw[:, 16:].view(-1, 4, 1, 32) >> _shifts(raw, 0, 4)) & 15, dtype)


def _q5_k(raw: Tensor, dtype: torch.dtype) -> Tensor:
    codes = (raw[:, 48:].reshape(-1, 4, 1, 32) >> _shifts(raw, 0, 4)) & 15
    high = (raw[:, 16:48].view(-1, 1, 1, 32) >> _shifts(raw, *range(8)).view(1, 4, 2, 1)) & 1
    return _with_six_bits(raw, codes | (high << 4), dtype)


def _with_six_bits(raw: Tensor, codes: Tensor, dtype: torch.dtype) -> Tensor:
    """d * scale * code - dmin * minimum; 8 scales and 8 minima of six bits in 12 bytes."""
    packed = raw[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([first & 63, (third & 15) | ((first >> 6) << 4)], dim=1)
    minima = torch.cat([second & 63, (third >> 4) | ((second >> 6) << 4)], dim=1)
    values = codes.reshape(-1, 8, 32).to(dtype)
    values.mul_(scales.to(dtype).mul_(_half(raw, 0, dtype))[:, :, None])
    return values.sub_(minima.to(dtype).mul_(_half(raw, 2, dtype))[:, :, None]).view(-1, 256)


def _q6_k(raw: Tensor, dtype: torch.dtype) -> Tensor:
    low = (raw[:, :128].view(-1, 2, 1, 64) >> _shifts(raw, 0, 4)) & 15
    high = (raw[:, 128:192].view(-1, 2, 1, 32) >> _shifts(raw, 0, 2, 4, 6)) & 3
    codes = low.reshape(-1, 2, 128) | (high.reshape(-1, 2, 128) << 4)
    scales = raw[:, 192:208].view(torch.int8).to(dtype).mul_(_half(raw, 208, dtype))
    return codes.reshape(-1, 16, 16).to(dtype).sub_(32).mul_(scales[:, :, None]).view(-1, 256)


def _shifts(raw: Tensor, *bits: int) -> Tensor:
    return torch.tensor(bits, dtype=torch.uint8, device=raw.device).view(1, 1, len(bits), 1)


_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_QUANTIZED: dict[str, Unpack] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "IQ4_NL": _iq4_nl, "Q2_K": _q2_k,
    "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
