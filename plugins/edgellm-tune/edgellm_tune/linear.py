"""Products with frozen matrices that are unpacked when they are needed, and whose input is computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgellm_tune.adapters import Adapter
from edgellm_tune.base import Matrix
from edgellm_tune.pieces import ending

Before = Callable[..., Tensor]


@dataclass(slots=True)
class Linear:
    """A matrix with its bias and what a method adds."""

    matrix: Matrix
    bias: Tensor | None
    adapter: Adapter

    @property
    def trained(self) -> list[Tensor]:
        """The adapter's, then the bias where that is trained."""
        bias = [self.bias] if self.bias is not None and self.bias.requires_grad else []
        return [*self.adapter.trained().values(), *bias]


def products(before: Before, inputs: Sequence[Tensor], linears: Sequence[Linear]) -> tuple[Tensor, ...]:
    """Each of `linears` of `before(*inputs)`, (tokens, in) -> (tokens, out).

    `before` is cheap: for the gradient it is done again, so that only `inputs` are kept.
    """
    parameters = [tensor for linear in linears for tensor in linear.trained]
    outs: tuple[Tensor, ...] = _Products.apply(before, linears, len(inputs), *inputs, *parameters)
    return outs


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, before: Before, linears: Sequence[Linear], n_inputs: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        x = before(*tensors[:n_inputs])
        outs, kept = [], []
        for linear in linears:
            weight = linear.matrix.values()
            y = x @ weight.T
            y, own = linear.adapter.forward(y, x, weight)
            kept.append(own)
            if linear.bias is not None:
                y += linear.bias
            outs.append(y)
            del weight  # before the next one is unpacked
        ctx.before, ctx.linears, ctx.counts = before, linears, [len(own) for own in kept]
        ctx.n_inputs = n_inputs
        ctx.save_for_backward(*tensors[:n_inputs], *(tensor for own in kept for tensor in own))
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        inputs, kept = saved[: ctx.n_inputs], list(saved[ctx.n_inputs :])
        wanted = ctx.needs_input_grad[3 : 3 + ctx.n_inputs]
        with torch.enable_grad():
            again = [tensor.detach().requires_grad_(needs) for tensor, needs in zip(inputs, wanted, strict=True)]
            x = ctx.before(*again)
        to_x: Tensor | None = None
        to_trained: list[Tensor | None] = []
        for linear, grad, count in zip(ctx.linears, grads, ctx.counts, strict=True):
            own, kept = tuple(kept[:count]), kept[count:]
            inner, extra, of_adapter = linear.adapter.backward(grad, x.detach(), own, into_x=any(wanted))
            to_trained += of_adapter
            if len(linear.trained) > len(of_adapter):
                to_trained.append(grad.sum(0))
            if any(wanted):
                weight = linear.matrix.values()
                to_x = inner @ weight if to_x is None else to_x.addmm_(inner, weight)
                to_x = to_x if extra is None else to_x.add_(extra)
                del weight
            del inner, extra
        if to_x is None:
            return None, None, None, *(None for _ in wanted), *to_trained
        with torch.enable_grad():
            ended = ending(x, to_x)
        to_inputs = iter(torch.autograd.grad(ended, [tensor for tensor in again if tensor.requires_grad]))
        return None, None, None, *(next(to_inputs) if needs else None for needs in wanted), *to_trained
