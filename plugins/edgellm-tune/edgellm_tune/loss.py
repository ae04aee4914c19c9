"""The loss over a whole vocabulary, for some supervised tokens at a time, and its gradient at once.

No more than `LOGITS_BYTES` of logits are there at any moment, and they become their own gradient in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgellm_tune.base import Matrix
from edgellm_tune.pieces import Norm, ending

LOGITS_BYTES = 64 * 1024**2  # as float32


def tokens_at_once(n_vocab: int) -> int:
    """Supervised tokens whose logits are computed together."""
    return max(1, LOGITS_BYTES // (4 * n_vocab))


def cross_entropy(
    hidden: Tensor, targets: Tensor, norm: Tensor, eps: float, head: Matrix, *, share: float | None
) -> tuple[float, Tensor | None]:
    """(sum of -log p(target) in nats, gradient of `share` times it to `hidden`; None without `share`).

    Args:
        hidden: (tokens, hidden size), before the last norm. targets: int64 (tokens,).
    """
    each, total = tokens_at_once(head.rows), 0.0
    to_hidden = None if share is None else torch.empty_like(hidden)
    for start in range(0, len(hidden), each):
        part = slice(start, start + each)
        with torch.set_grad_enabled(share is not None):
            leaf = hidden[part].detach().requires_grad_(share is not None)
            x: Tensor = Norm.apply(leaf, norm, eps)
        value, to_x = _of_part(x.detach(), targets[part], head, share)
        total += value
        if to_hidden is not None:
            torch.autograd.backward(ending(x, to_x))  # to the norm's weight, too, where that is trained
            to_hidden[part] = leaf.grad  # type: ignore[assignment]
    return total, to_hidden


@torch.no_grad()
def logits_of(x: Tensor, head: Matrix) -> Tensor:
    """(tokens, vocabulary) of what the last norm gives."""
    logits = torch.empty(len(x), head.rows, dtype=x.dtype, device=x.device)
    for part, values in head.parts():
        torch.mm(x, values.T, out=logits[:, part])
    return logits


@torch.no_grad()
def _of_part(x: Tensor, targets: Tensor, head: Matrix, share: float | None) -> tuple[float, Tensor | None]:
    logits = logits_of(x, head)
    rows, highest = torch.arange(len(x), device=x.device), logits.amax(1)
    wanted = logits[rows, targets]
    sums = logits.sub_(highest[:, None]).exp_().sum(1)
    total = float((highest + sums.log() - wanted).sum())
    if share is None:
        return total, None
    logits.mul_((share / sums)[:, None])
    logits[rows, targets] -= share
    to_x = torch.zeros_like(x)
    for part, values in head.parts():
        to_x.addmm_(logits[:, part], values)
    if head.held.requires_grad:
        _grad_of(head).addmm_(logits.T, x)
    return total, to_x


def _grad_of(head: Matrix) -> Tensor:
    if head.held.grad is None:
        head.held.grad = torch.zeros_like(head.held)
    return head.held.grad
