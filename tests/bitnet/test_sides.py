"""Adapters beside ternary products: what the oracle adds in float64, and the same bits for any batch and threads."""

from __future__ import annotations

import numpy as np
import pytest
from bitnet.models import Tiny, engine_of, feed, settings_of, tokens_of
from bitnet.packed import library
from bitnet.reference import Reference
from bitnet.test_engine import EXACT, FAMILIES, FLIPPED, row_errors
from edgellm_bitnet.weights import GgufWeights
from support.loras import LINEAR, random_factors, random_lora, write_lora
from support.refusals import refuses

from edgellm.contract.engine import SlotInput
from edgellm.errors import BadArtifact, UnsupportedArtifact

ONE, BOTH = (("one", 1.0),), (("one", 0.5), ("two", -1.0))


@pytest.fixture(autouse=True)
def built():
    library()


class Adapted(Reference):
    """With `scale * B (A x)` beside each product that has factors; x is not quantized for them."""

    def __init__(self, weights, adapters, **how):
        super().__init__(weights, **how)
        self.adapters = adapters  # (factors, scale)

    def product(self, layer, name, x):
        y = super().product(layer, name, x)
        for factors, scale in self.adapters:
            if (pair := factors.get(f"blk.{layer}.{name}.weight")) is not None:
                a, b = (part.astype(np.float64) for part in pair)
                y = y + scale * (x @ a.T) @ b.T
        return y


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapters", [ONE, BOTH], ids=["one", "two with scales"])
def test_it_adds_what_the_oracle_adds(tmp_path, family, adapters):
    model = FAMILIES[family]
    path = model.write(tmp_path / "model.gguf")
    factors = {
        "one": random_factors(path, rank=3, seed=1, size=0.03),
        "two": random_factors(path, rank=16, seed=2, size=0.03, roles=("attn_q", "attn_v", "ffn_down")),
    }
    prompts = [tokens_of(model, n, seed=n) for n in (12, 21, 23)]
    scales = {"one": 2.0, "two": 0.5}  # alpha / rank
    used = [(factors[name], scale * scales[name]) for name, scale in adapters]
    weights = GgufWeights(str(path))
    wanted = [Adapted(weights, used).logits(tokens)[-11:] for tokens in prompts]
    base = [Reference(weights).logits(tokens)[-11:] for tokens in prompts]
    with engine_of(path) as engine:
        before = feed(engine, 0, prompts[0], rows=11)
        engine.truncate(0, 0)
        for name, alpha in (("one", 6.0), ("two", 8.0)):
            engine.load_adapter(name, str(write_lora(tmp_path / f"{name}.gguf", path, factors[name], alpha=alpha)))
        batch = [SlotInput(slot, 0, tuple(map(int, tokens)), 11, adapters) for slot, tokens in enumerate(prompts)]
        found = [rows.copy() for rows in engine.step(batch)]
        engine.truncate(0, 0)
        after = feed(engine, 0, prompts[0], rows=11)
    errors = [row_errors(*rows) for rows in zip(found, wanted, strict=True)]
    assert min(np.median(of_prompt) for of_prompt in errors) <= 2 * EXACT, errors
    assert np.max(errors) <= FLIPPED, errors
    assert min(row_errors(*rows).min() for rows in zip(base, wanted, strict=True)) > 10 * np.max(errors)
    assert (before == after).all()


def test_neither_batch_nor_threads_change_a_bit(tmp_path):
    model = Tiny("llama")
    path = model.write(tmp_path / "model.gguf")
    lora = str(random_lora(tmp_path / "one.gguf", path, rank=5, size=0.1))
    tokens = tuple(map(int, tokens_of(model, 70, seed=1)))
    rows = []
    for threads in (1, 2, 3):
        with engine_of(path, settings_of(threads=threads)) as engine:
            engine.load_adapter("one", lora)
            rows.append(engine.step([SlotInput(0, 0, tokens, 8, ONE)])[0].copy())
            engine.truncate(0, 0)
            for at, token in enumerate(tokens):
                last = engine.step([SlotInput(0, at, (token,), 1, ONE)])[0].copy()
            assert (last[-1] == rows[0][-1]).all()
    assert all((other == rows[0]).all() for other in rows)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_factors_are_read_in_every_type(tmp_path, kind):
    model = Tiny()
    path = model.write(tmp_path / "model.gguf")
    factors = random_factors(path, rank=32, size=0.05)
    plain = write_lora(tmp_path / "f32.gguf", path, factors)
    write_lora(tmp_path / "other.gguf", path, factors, kind=kind)
    tokens = tuple(map(int, tokens_of(model, 9, seed=1)))
    with engine_of(path) as engine:
        engine.load_adapter("one", str(plain))
        engine.load_adapter("two", str(tmp_path / "other.gguf"))
        exact = engine.step([SlotInput(0, 0, tokens, 1, ONE)])[0].copy()
        base = engine.step([SlotInput(1, 0, tokens, 1)])[0].copy()
        stored = engine.step([SlotInput(2, 0, tokens, 1, (("two", 1.0),))])[0].copy()
    assert abs(stored - exact).max() <= 0.1 * abs(exact - base).max()


def test_a_dropped_adapter_is_gone(tmp_path):
    model = Tiny()
    path = model.write(tmp_path / "model.gguf")
    tokens = tuple(map(int, tokens_of(model, 9, seed=1)))
    with engine_of(path) as engine:
        base = engine.step([SlotInput(0, 0, tokens, 1)])[0].copy()
        for seed in (1, 2):
            engine.load_adapter("one", str(random_lora(tmp_path / f"{seed}.gguf", path, seed=seed, size=0.1)))
            assert (engine.step([SlotInput(1, 0, tokens, 1, ONE)])[0] != base).any()
            engine.truncate(1, 0)
            engine.drop_adapter("one")
            assert (engine.step([SlotInput(1, 0, tokens, 1)])[0] == base).all()
            engine.truncate(1, 0)


@pytest.mark.parametrize(("end", "value", "alpha"), [(1, 1e10, 3e38), (0, np.nan, 1.0), (1, np.inf, 1.0)])
def test_factors_that_are_no_numbers_are_refused(tmp_path, end, value, alpha):
    path = Tiny("llama").write(tmp_path / "model.gguf")
    factors = random_factors(path, rank=2)
    factors["blk.1.ffn_down.weight"][end][0, 0] = value
    lora = write_lora(tmp_path / "a.gguf", path, factors, alpha=alpha)

    with engine_of(path) as engine, refuses(BadArtifact):
        engine.load_adapter("a", str(lora))


def test_what_it_cannot_compute_with_is_refused(tmp_path):
    path = Tiny(tied=False).write(tmp_path / "model.gguf")
    head = random_factors(path, roles=LINEAR)
    name = next(iter(head))
    rng = np.random.default_rng(0)
    head = {name: head[name], "output.weight": tuple(
        rng.normal(size=size).astype(np.float32) for size in ((4, 256), (301, 4))
    )}  # fmt: skip
    other = Tiny(hidden=128).write(tmp_path / "other.gguf")
    with engine_of(path) as engine:
        with refuses(UnsupportedArtifact):
            engine.load_adapter("one", str(write_lora(tmp_path / "head.gguf", path, head)))
        with refuses(UnsupportedArtifact):
            engine.load_adapter("one", str(random_lora(tmp_path / "lora.gguf", other)))
        with refuses(UnsupportedArtifact):
            tokens = write_lora(tmp_path / "alora.gguf", path, random_factors(path), invocation_tokens=(1,))
            engine.load_adapter("one", str(tokens))
        with refuses(BadArtifact):
            engine.load_adapter("one", str(tmp_path / "none.gguf"))
