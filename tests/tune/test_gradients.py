"""Gradients of every method and family against finite differences, in float64."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from support.gguf_decoders import FAMILIES, Decoder
from support.tuning import rows, stir, trainer

from edgellm.types.tuning import METHODS

with contextlib.suppress(ImportError):  # conftest.py skips
    import torch

BATCH = rows((7, 5), (6,))
STEP = 1e-4


def held(adapter):
    """The same adapter, where what no gradient goes through stays as it is now: |V| of DoRA, W of Delta-LoRA."""
    from edgellm_tune.adapters import Decomposed, LowRank

    if isinstance(adapter, Decomposed):
        a, b = adapter.a.detach().clone(), adapter.b.detach().clone()

        class Held(Decomposed):
            def forward(self, y, x, weight):
                norm = (weight + self.scale * b @ a).norm(dim=1)
                return (y + self.scale * (x @ self.a.T) @ self.b.T) * (self.m / norm), ()

        return Held(*(getattr(adapter, field.name) for field in dataclasses.fields(adapter)))
    if isinstance(adapter, LowRank) and adapter.start is not None:
        moved = adapter.delta * (adapter.b @ adapter.a - adapter.start[1] @ adapter.start[0]).detach()

        class Moved(LowRank):
            def forward(self, y, x, weight):
                added = self.b @ self.a + moved
                return y + self.scale * x @ added.T, ()

        return Moved(*(getattr(adapter, field.name) for field in dataclasses.fields(adapter)))
    return adapter


def check(path, method, *, checkpointing):
    tuned = trainer(path, method=method, rank=4, alpha=6.0, checkpointing=checkpointing, quantized=True, delta_start=0)
    stir(tuned, spread=0.3 if method != "full" else 0.0)
    if method == "delta-lora":
        tuned._remember_start()
        stir(tuned, seed=1)
    from edgellm_tune.trainer import tokens_of

    tokens = tokens_of(BATCH)
    loss = tuned.model.backward(tokens, 1.0, checkpointing=checkpointing)
    for linear in tuned.model.linears:
        linear.adapter = held(linear.adapter)
    assert loss == pytest.approx(tuned.model.loss(tokens), rel=1e-12)
    random = torch.Generator().manual_seed(2)
    for name, tensor in tuned.trained.items():
        direction = torch.randn(tensor.shape, generator=random, dtype=torch.float64)
        direction /= direction.norm()
        losses = []
        with torch.no_grad():
            for factor in (-2, -1, 1, 2):
                tensor.add_(direction, alpha=factor * STEP)
                losses.append(tuned.model.loss(tokens))
                tensor.sub_(direction, alpha=factor * STEP)
        # Of fourth order.
        difference = (losses[0] - 8 * losses[1] + 8 * losses[2] - losses[3]) / (12 * STEP)
        expected = float((tensor.grad * direction).sum())
        scale = max(abs(expected), float(tensor.grad.norm()) * 0.1)
        assert abs(difference - expected) <= 1e-6 * scale, name


@pytest.mark.slow(12)
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method, tmp_path):
    check(Decoder(layers=2).write(tmp_path / "m.gguf"), method, checkpointing=False)


@pytest.mark.slow(20)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tmp_path):
    check(FAMILIES[family].write(tmp_path / "m.gguf"), "lora", checkpointing=True)


@pytest.mark.slow(10)
@pytest.mark.parametrize("method", ["dora", "full"])
def test_layers_that_are_computed_again(method, tmp_path):
    decoder = Decoder("gemma3", layers=6, keys={"attention.sliding_window": 4})
    check(decoder.write(tmp_path / "m.gguf"), method, checkpointing=True)
