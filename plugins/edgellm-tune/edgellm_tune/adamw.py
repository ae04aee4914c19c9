"""AdamW (arXiv:1711.05101), in place. torch's own would import its compiler: 70 MB of memory that nothing here uses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class AdamW:
    """State of tensors by name; each may have its own share of the learning rate."""

    def __init__(self, tensors: Mapping[str, Tensor], rates: Mapping[str, float], weight_decay: float) -> None:
        self.tensors, self.rates, self.weight_decay = tensors, rates, weight_decay
        self.first = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in tensors.items()}
        self.second = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in tensors.items()}
        self.count = 0

    @torch.no_grad()
    def step(self, learning_rate: float, gradient_scale: float) -> None:
        """One step with each tensor's `.grad` times `gradient_scale`; the gradients are gone then."""
        self.count += 1
        correction1, correction2 = 1 - _BETA1**self.count, 1 - _BETA2**self.count
        for name, tensor in self.tensors.items():
            assert tensor.grad is not None
            grad, rate = tensor.grad.mul_(gradient_scale), learning_rate * self.rates.get(name, 1.0)
            tensor.grad = None
            tensor.mul_(1 - rate * self.weight_decay)
            self.first[name].lerp_(grad, 1 - _BETA1)
            second = self.second[name].mul_(_BETA2).addcmul_(grad, grad, value=1 - _BETA2)
            divisor = torch.sqrt(second, out=grad).div_(math.sqrt(correction2)).add_(_EPS)
            tensor.addcdiv_(self.first[name], divisor, value=-rate / correction1)
