"""What each method adds to y = W x, and the gradients of what it trains, by hand: so nothing more than needed is kept.

`forward` may change `y`, which is W x, and returns what its `backward` gets back as `kept`. `backward` returns the
gradient of W x, what is to be added to the gradient of x, and the gradients of `trained`, in order.
The frozen product's own part of the gradient is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

_TINY = 1e-24  # a row of zeros has no direction
Backward = tuple[Tensor, Tensor | None, Sequence[Tensor | None]]


class Adapter(Protocol):
    """One matrix's."""

    def trained(self) -> dict[str, Tensor]:
        """By the end of its name, in the order in which gradients come."""
        ...

    def frozen(self) -> dict[str, Tensor]:
        """What was drawn or kept, and does not change now."""
        ...

    def forward(self, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]: ...

    def backward(self, grad: Tensor, x: Tensor, kept: tuple[Tensor, ...], *, into_x: bool) -> Backward: ...


@dataclass(slots=True)
class LowRank:
    """y + scale B A x. LoRA arXiv:2106.09685, rsLoRA 2312.03732, LoRA+ 2402.12354; LoRA-FA 2308.03303 freezes A.

    Delta-LoRA 2309.02411 moves W by `delta` times what B A changed by since `start`, and takes no gradient through W:
    the sum of these moves is one matrix of rank 2r, so W stays where it is.
    """

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    scale: float
    freezes_a: bool = False
    delta: float = 0.0
    start: tuple[Tensor, Tensor] | None = None

    def trained(self) -> dict[str, Tensor]:
        return {"lora_b": self.b} if self.freezes_a else {"lora_a": self.a, "lora_b": self.b}

    def frozen(self) -> dict[str, Tensor]:
        if self.start is not None:
            return {"start_a": self.start[0], "start_b": self.start[1]}
        return {"lora_a": self.a} if self.freezes_a else {}

    def forward(self, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        reduced = x @ self.a.T
        if self.start is None:
            return y.addmm_(reduced, self.b.T, alpha=self.scale), (reduced,)
        start_a, start_b = self.start
        y.addmm_(reduced, self.b.T, alpha=self.scale * (1 + self.delta))
        return y.addmm_(x @ start_a.T, start_b.T, alpha=-self.scale * self.delta), (reduced,)

    def backward(self, grad: Tensor, x: Tensor, kept: tuple[Tensor, ...], *, into_x: bool) -> Backward:
        back = (grad @ self.b).mul_(self.scale)
        to_b = (grad.T @ kept[0]).mul_(self.scale)
        grads = [to_b] if self.freezes_a else [back.T @ x, to_b]
        if not into_x:
            return grad, None, grads
        if self.start is None:
            return grad, back @ self.a, grads
        start_a, start_b = self.start
        to_x = (back @ self.a).mul_(1 + self.delta)
        return grad, to_x.addmm_(grad @ start_b, start_a, alpha=-self.scale * self.delta), grads


@dataclass(slots=True)
class Vector:
    """y + diag(b) B diag(d) A x: A and B are random, frozen and shared by all matrices. VeRA arXiv:2310.11454."""

    d: Tensor  # (rank,)
    b: Tensor  # (out,)
    shared_a: Tensor  # (rank, in)
    shared_b: Tensor  # (out, rank)

    def trained(self) -> dict[str, Tensor]:
        return {"vera_d": self.d, "vera_b": self.b}

    def frozen(self) -> dict[str, Tensor]:
        return {}

    def forward(self, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        reduced = x @ self.shared_a.T
        return y.addcmul_((reduced * self.d) @ self.shared_b.T, self.b), (reduced,)

    def backward(self, grad: Tensor, x: Tensor, kept: tuple[Tensor, ...], *, into_x: bool) -> Backward:
        (reduced,) = kept
        wide = (reduced * self.d) @ self.shared_b.T
        to_b = wide.mul_(grad).sum(0)
        back = (grad * self.b) @ self.shared_b
        to_d = (back * reduced).sum(0)
        return grad, back.mul_(self.d) @ self.shared_a if into_x else None, [to_d, to_b]


@dataclass(slots=True)
class Decomposed:
    """y = m * V x / |V| for V = W + scale B A; no gradient goes through |V|. DoRA arXiv:2402.09353, 4.3."""

    a: Tensor
    b: Tensor
    m: Tensor  # (out,)
    scale: float
    squares: Tensor  # (out,): of W's rows

    def trained(self) -> dict[str, Tensor]:
        return {"lora_a": self.a, "lora_b": self.b, "dora_m": self.m}

    def frozen(self) -> dict[str, Tensor]:
        return {}

    def forward(self, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        reduced = x @ self.a.T
        y.addmm_(reduced, self.b.T, alpha=self.scale)
        across = (weight @ self.a.T).mul_(2 * self.scale).addmm_(self.b, self.a @ self.a.T, alpha=self.scale**2)
        norm = across.mul_(self.b).sum(1).add_(self.squares).clamp_min_(_TINY).sqrt_()
        return y * (self.m / norm), (reduced, y, norm)

    def backward(self, grad: Tensor, x: Tensor, kept: tuple[Tensor, ...], *, into_x: bool) -> Backward:
        reduced, before, norm = kept
        to_m = (grad * before).sum(0).div_(norm)
        inner = grad * (self.m / norm)
        back = (inner @ self.b).mul_(self.scale)
        grads = [back.T @ x, (inner.T @ reduced).mul_(self.scale), to_m]
        return inner, back @ self.a if into_x else None, grads


@dataclass(slots=True)
class Whole:
    """The matrix itself."""

    weight: Tensor

    def trained(self) -> dict[str, Tensor]:
        return {"": self.weight}

    def frozen(self) -> dict[str, Tensor]:
        return {}

    def forward(self, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return y, ()

    def backward(self, grad: Tensor, x: Tensor, kept: tuple[Tensor, ...], *, into_x: bool) -> Backward:
        return grad, None, [grad.T @ x]
