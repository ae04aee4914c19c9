"""Steps of a layer whose gradient needs less than torch would keep: norms, rotations, gates, attention by document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Documents = tuple[tuple[int, int], ...]  # first token and the one behind the last, of each


class _Ending(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0], None


def ending(x: Tensor, grad: Tensor | None) -> Tensor:
    """A number whose gradient to `x` is `grad`, of its shape, and there.

    To be differentiated without a gradient of its own: torch compares the shape of one that it is given by way of
    sympy, which takes 32 MiB and half a second once.
    """
    assert grad is not None
    ended: Tensor = _Ending.apply(x, grad)
    return ended


class Norm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension. Keeps x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _scaled(x, eps)[0].mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        normed, factor = _scaled(x, ctx.eps)
        to_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, to_weight, None
        inner = grad * weight
        shared = (inner * normed).mean(-1, keepdim=True)
        return inner.sub_(normed.mul_(shared)).mul_(factor), to_weight, None


def _scaled(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    factor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return x * factor, factor


class Rotate(torch.autograd.Function):
    """Turns pairs of components, (tokens, heads, dim), by the angle of each token's position. Keeps nothing of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        ctx.interleaved = interleaved
        return _turned(x, cosines, sines, interleaved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        return _turned(grad, cosines, -sines, ctx.interleaved), None, None, None


def _turned(x: Tensor, cosines: Tensor, sines: Tensor, interleaved: bool) -> Tensor:
    turned = torch.empty_like(x)
    for at, (a, b) in enumerate((_pairs(x, interleaved), _pairs(x, interleaved)[::-1])):
        half = _pairs(turned, interleaved)[at]
        torch.mul(a, cosines, out=half)
        half.addcmul_(b, sines, value=1 if at else -1)
    return turned


def _pairs(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    if interleaved:  # rotated components are neighbours
        return x[..., 0::2], x[..., 1::2]
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    return (functional.gelu(gate, approximate="tanh") if gelu else functional.silu(gate)) * up


@dataclass(frozen=True, slots=True)
class Attention:
    """Of `heads` over `kv_heads`, causal, in each document alone; with a window, over that many tokens."""

    heads: int
    kv_heads: int
    scale: float
    window: int = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> list[Tensor]:
        """(tokens, heads, dim) -> for each document (kv heads, heads of each, tokens, dim)."""
        each = self.heads // self.kv_heads
        outs = []
        for start, stop in documents:
            length = stop - start
            query = q[start:stop].view(length, self.kv_heads, each, -1).permute(1, 2, 0, 3)
            # Not copied for each head: strides of 0.
            key, value = (x[start:stop].permute(1, 0, 2).unsqueeze(1).expand(-1, each, -1, -1) for x in (k, v))
            mask = self._mask(length, q.device) if 0 < self.window < length else None
            outs.append(
                functional.scaled_dot_product_attention(
                    query, key, value, attn_mask=mask, is_causal=mask is None, scale=self.scale
                )
            )
        return outs

    def _mask(self, length: int, device: torch.device) -> Tensor:
        at = torch.arange(length, device=device)
        ahead = at[:, None] - at[None, :]
        return (ahead >= 0) & (ahead < self.window)


def joined(*outs: Tensor) -> Tensor:
    """What `Attention` gives, as (tokens, heads * dim)."""
    return torch.cat([out.permute(2, 0, 1, 3).reshape(out.shape[2], -1) for out in outs])
