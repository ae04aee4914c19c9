"""Every fold against its method's own formula, by numpy in float64."""

import math

import numpy as np
import pytest

from edgellm.adaptation import folds
from edgellm.adaptation.lora import LoraFactors

RNG = np.random.default_rng(0)


def values(*shape):
    return RNG.normal(0, 1, shape).astype(np.float32)


def product(pair):
    return pair.b.astype(np.float64) @ pair.a.astype(np.float64)


@pytest.mark.parametrize("rank", [1, 4, 16, 100])
def test_rslora_divides_by_the_root_of_the_rank(rank):
    assert folds.rslora_alpha(32.0, rank) / rank == pytest.approx(32.0 / math.sqrt(rank), rel=1e-15)


def test_vera_is_a_pair_of_its_own_rank():
    shared_a, shared_b, d, b = values(8, 96), values(64, 8), values(8), values(48)

    pair = folds.vera(shared_a, shared_b, d, b, n_in=32)

    wide = [array.astype(np.float64) for array in (b, shared_b[:48], d, shared_a[:, :32])]
    assert np.allclose(product(pair), np.diag(wide[0]) @ wide[1] @ np.diag(wide[2]) @ wide[3], rtol=0, atol=1e-5)
    assert (pair.a.shape, pair.b.shape) == ((8, 32), (48, 8))


def test_delta_is_what_its_steps_did_to_the_base():
    """The paper's rule, step by step, against the telescoped pair: base, factors and all moves of the base."""
    share, scale, steps, start = 2.0, 2.0, 40, 10
    a, b = values(4, 32).astype(np.float64) / 8, values(48, 4).astype(np.float64) / 8
    moved, kept = np.zeros((48, 32)), None
    for step in range(steps):
        if step == start:
            kept = LoraFactors(a.astype(np.float32), b.astype(np.float32))
            a, b = kept.a.astype(np.float64), kept.b.astype(np.float64)
        before = b @ a
        a, b = a + 0.01 * RNG.normal(0, 1, a.shape), b + 0.01 * RNG.normal(0, 1, b.shape)
        if step >= start:
            moved += share * scale * (b @ a - before)
    end = LoraFactors(a.astype(np.float32), b.astype(np.float32))

    pair = folds.delta(end, kept, share)

    assert np.abs(scale * product(pair) - (moved + scale * b @ a)).max() < 1e-6
    assert pair.rank == 8


@pytest.mark.parametrize(
    ("scales", "alpha", "changed"),
    [
        ((2.0, 2.0, 2.0), 8.0, 1),
        ((2.0, 2.0, 1.0), 8.0, 0),  # the third has twice the rank: one alpha says both
        ((1.0, 1.0, 1.0), 0.0, 0),  # none says it
        ((2.0, 3.0, 1.0), 8.0, 1),
        ((0.5, 0.5, 4.0), 2.0, 1),
        ((0.0, 2.0, 1.0), 8.0, 1),
        ((0.0, 0.0, 0.0), 1.0, 3),
    ],
)
def test_scales_of_their_own_become_one_alpha(scales, alpha, changed):
    names = ("q", "k", "v")
    factors = {name: LoraFactors(values(r, 32), values(16, r)) for name, r in zip(names, (4, 4, 8), strict=True)}
    wanted = {name: scale * product(factors[name]) for name, scale in zip(names, scales, strict=True)}

    said, made, is_changed = folds.one_alpha(factors, dict(zip(names, scales, strict=True)))

    assert (said, is_changed) == (alpha, bool(changed))
    assert sum(made[name].b is not factors[name].b for name in names) == changed
    for name in names:
        scale = said / made[name].rank if said else 1.0
        assert np.abs(scale * product(made[name]) - wanted[name]).max() < 1e-5 * max(1, np.abs(wanted[name]).max())
