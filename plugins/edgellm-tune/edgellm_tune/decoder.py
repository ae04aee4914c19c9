"""A decoder over a `Base`: layers, the loss at its end, and its gradient, with as little kept as is cheap.

Tokens of all rows stand in one line, without padding: (tokens, hidden). A document is a range of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgellm.errors import UnsupportedArtifact
from edgellm.formats import rope
from edgellm.formats.gguf.decoder import Decoder
from edgellm_tune import loss
from edgellm_tune.adapters import Adapter
from edgellm_tune.base import Base, Matrix
from edgellm_tune.heap import give_back
from edgellm_tune.linear import Linear, products
from edgellm_tune.pieces import Attention, Documents, Norm, Rotate, ending, gated, joined

Adapt = Callable[[Matrix], Adapter]
_LAYERS_UNTIL_GIVEN_BACK = 4


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is computed together. `targets` are what follows the tokens at `predicting`."""

    ids: Tensor  # int64 (tokens,)
    positions: Tensor  # int64 (tokens,)
    documents: Documents
    predicting: Tensor  # int64 (supervised,): index of the token before each supervised one
    targets: Tensor  # int64 (supervised,)


@dataclass(slots=True)
class Layer:
    """Attention and feed-forward, each with a norm before it, and in Gemma one behind it."""

    names: dict[str, Tensor]  # norms, by the tensor's name
    attn: tuple[Linear, ...]
    out: Linear
    ffn: tuple[Linear, ...]
    down: Linear
    attention: Attention
    index: int
    config: Decoder

    @property
    def is_local(self) -> bool:
        """Whether a token sees those of a window alone."""
        return self.attention.window > 0

    def __call__(self, x: Tensor, rotation: tuple[Tensor, Tensor], documents: Documents) -> Tensor:
        cfg = self.config
        q, k, v = self._products(x, "attn_norm", self.attn)
        q, k, v = (part.view(len(x), -1, cfg.head_dim) for part in (q, k, v))
        if cfg.qk_norm:
            q, k = self._norm(q, "attn_q_norm"), self._norm(k, "attn_k_norm")
        q, k = (Rotate.apply(part, *rotation, cfg.interleaved) for part in (q, k))
        (a,) = products(joined, self.attention(q, k, v, documents), [self.out])
        x = x + (self._norm(a, "post_attention_norm") if cfg.post_norms else a)
        gate_up = self._products(x, "ffn_norm", self.ffn)
        (m,) = products(lambda gate, up: gated(gate, up, cfg.gelu), gate_up, [self.down])
        return x + (self._norm(m, "post_ffw_norm") if cfg.post_norms else m)

    def _products(self, x: Tensor, norm: str, linears: tuple[Linear, ...]) -> tuple[Tensor, ...]:
        eps = self.config.eps
        weight = self.names[f"blk.{self.index}.{norm}.weight"]
        return products(lambda x, weight: Norm.apply(x, weight, eps), (x, weight), linears)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.names[f"blk.{self.index}.{name}.weight"]
        normed: Tensor = Norm.apply(x, weight, self.config.eps)
        return normed


class Model:
    """All layers of one model."""

    def __init__(self, base: Base, config: Decoder, adapt: Adapt) -> None:
        """`adapt` makes what a matrix of a layer is adapted with.

        Raises:
            BadArtifact: a tensor is missing. UnsupportedArtifact: there is one that no layer has a place for.
        """
        self.config = config
        self.embedding = base.matrix("token_embd.weight", config.vocab, config.hidden)
        self.head = self.embedding if config.tied else base.matrix("output.weight", config.vocab, config.hidden)
        self.vectors = {"output_norm.weight": base.vector("output_norm.weight", config.hidden)}
        self.linears: list[Linear] = []
        self.layers = [self._layer(base, index, adapt) for index in range(config.n_layer)]
        self.divisors = None
        if base.has("rope_freqs.weight"):
            self.divisors = base.vector("rope_freqs.weight", config.head_dim // 2)
        if unused := base.unused():
            raise UnsupportedArtifact(
                f"{base.where}: nothing of a {config.arch} model is made of {', '.join(unused[:3])}",
                hint="tune another file of this model",
            )
        base.let_go()
        self._rotations: dict[bool, tuple[Tensor, Tensor]] = {}  # by whether the layer has a window

    def _layer(self, base: Base, index: int, adapt: Adapt) -> Layer:
        c, prefix = self.config, f"blk.{index}."
        norms = {"attn_norm": c.hidden, "ffn_norm": c.hidden}
        norms |= {"attn_q_norm": c.head_dim, "attn_k_norm": c.head_dim} if c.qk_norm else {}
        norms |= {"post_attention_norm": c.hidden, "post_ffw_norm": c.hidden} if c.post_norms else {}
        for name, size in norms.items():
            self.vectors[f"{prefix}{name}.weight"] = base.vector(f"{prefix}{name}.weight", size)

        def linear(name: str, rows: int, columns: int) -> Linear:
            matrix = base.matrix(f"{prefix}{name}.weight", rows, columns)
            bias = None
            if base.has(f"{prefix}{name}.bias"):
                bias = self.vectors[f"{prefix}{name}.bias"] = base.vector(f"{prefix}{name}.bias", rows)
            self.linears.append(Linear(matrix, bias, adapt(matrix)))
            return self.linears[-1]

        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        window = c.window if c.local[index] else 0
        return Layer(
            self.vectors,
            (linear("attn_q", q, c.hidden), linear("attn_k", kv, c.hidden), linear("attn_v", kv, c.hidden)),
            linear("attn_output", c.hidden, q),
            (linear("ffn_gate", c.ffn, c.hidden), linear("ffn_up", c.ffn, c.hidden)),
            linear("ffn_down", c.hidden, c.ffn),
            Attention(c.heads, c.kv_heads, c.attention_scale, window),
            index,
            c,
        )

    def loss(self, tokens: Tokens) -> float:
        """Sum over the supervised tokens, in nats."""
        with torch.no_grad():
            x = self._hidden(tokens)
            give_back()  # what layers left
            return self._ending(x, tokens, None)[0]

    def next_token(self, tokens: Tokens) -> int:
        """The likeliest behind the last of them."""
        with torch.no_grad():
            x = self._hidden(tokens)[-1:]
            x = Norm.apply(x, self.vectors["output_norm.weight"], self.config.eps)
            return int(loss.logits_of(x, self.head).argmax())

    def _hidden(self, tokens: Tokens) -> Tensor:
        """What the layers make of them, (tokens, hidden), without a graph."""
        x, rotations = self._embedded(tokens), self._rotations_of(tokens)
        for layer in self.layers:
            x = layer(x, rotations[layer.is_local], tokens.documents)
        return x

    def backward(self, tokens: Tokens, share: float, *, checkpointing: bool) -> float:
        """Adds the gradient of `share` times the loss to every trained tensor's `.grad`. Returns the loss."""
        trains_embedding, rotations = self.embedding.held.requires_grad, self._rotations_of(tokens)
        with torch.no_grad():
            x = self._embedded(tokens)
        inputs = []
        if checkpointing:
            with torch.no_grad():
                for layer in self.layers:
                    inputs.append(x)
                    x = layer(x, rotations[layer.is_local], tokens.documents)
            give_back()  # what layers left between what is kept
            total, grad = self._ending(x, tokens, share)
            give_back()  # logits
            for layer in reversed(self.layers):
                x = inputs.pop().requires_grad_(bool(inputs) or trains_embedding)
                torch.autograd.backward(ending(layer(x, rotations[layer.is_local], tokens.documents), grad))
                grad = x.grad
        else:
            first = x.requires_grad_(trains_embedding)
            for layer in self.layers:
                x = layer(x, rotations[layer.is_local], tokens.documents)
                if layer.index % _LAYERS_UNTIL_GIVEN_BACK == 0:
                    give_back()  # each layer leaves a hole of the size of its gate, which the next one does not fill
            give_back()
            total, grad = self._ending(x.detach(), tokens, share)
            give_back()
            torch.autograd.backward(ending(x, grad))
            grad = first.grad
        if trains_embedding:
            assert grad is not None
            self._grad_of_embedding().index_add_(0, tokens.ids, grad.mul_(self.config.embedding_scale))
        return total

    def _embedded(self, tokens: Tokens) -> Tensor:
        x = self.embedding.at(tokens.ids).mul_(self.config.embedding_scale)
        if self.head is not self.embedding:
            self.embedding.let_go()
        return x

    def _grad_of_embedding(self) -> Tensor:
        if self.embedding.held.grad is None:
            self.embedding.held.grad = torch.zeros_like(self.embedding.held)
        return self.embedding.held.grad

    def _ending(self, x: Tensor, tokens: Tokens, share: float | None) -> tuple[float, Tensor | None]:
        """(sum of the losses, gradient of `share` times it to all of `x`)."""
        norm = self.vectors["output_norm.weight"]
        total, grad = loss.cross_entropy(
            x[tokens.predicting], tokens.targets, norm, self.config.eps, self.head, share=share
        )
        if grad is None:
            return total, None
        spread = torch.zeros_like(x)
        # Two supervised tokens are never predicted from one place.
        spread[tokens.predicting] = grad
        return total, spread

    def _rotations_of(self, tokens: Tokens) -> dict[bool, tuple[Tensor, Tensor]]:
        """Cosines and sines (tokens, 1, dim / 2) of each token's position, by whether a layer is local."""
        # Positions begin at 0 in each document, and the longest is known without waiting for a device.
        length, positions = max(stop - start for start, stop in tokens.documents), tokens.positions
        kinds = {layer.is_local for layer in self.layers}
        tables = {local: self._tables(length, local=local) for local in kinds}
        return {local: (cosines[positions], sines[positions]) for local, (cosines, sines) in tables.items()}

    def _tables(self, length: int, *, local: bool) -> tuple[Tensor, Tensor]:
        """Of all positions below `length`, at least."""
        config = self.config
        if local not in self._rotations or len(self._rotations[local][0]) < length:
            scaling = rope.RopeScaling() if local else config.rope_scaling
            base = config.local_base if local else config.rope_base
            divisors = None if local or self.divisors is None else self.divisors.float().cpu().numpy()
            cosines, sines = rope.tables(length, config.head_dim, base, scaling, divisors)
            like = self.vectors["output_norm.weight"]
            self._rotations[local] = (
                torch.from_numpy(cosines).to(like.dtype).to(like.device)[:, None],
                torch.from_numpy(sines).to(like.dtype).to(like.device)[:, None],
            )
        return self._rotations[local]
