"""What a slot holds is its own: the same bits alone and in any batch, after truncate, fork, save and load."""

from __future__ import annotations

import numpy as np
import pytest
from bitnet.models import CODECS, Tiny, engine_of, feed, settings_of, tokens_of
from bitnet.packed import library, usable
from edgellm_bitnet.codecs import floats
from edgellm_bitnet.ternary import Ternary
from support.refusals import refuses

from edgellm.contract.engine import SlotInput
from edgellm.errors import CacheFull
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import TensorInfo

MODELS = {
    "one scale": Tiny(heads=6, kv_heads=2),
    "block scales, a Q6_K head": Tiny("llama", ternary="TQ2_0", varying=True, head="Q6_K", heads=8, kv_heads=1),
    "windows": Tiny("gemma3", layers=2, keys={"attention.sliding_window": 70}, heads=5, kv_heads=1, head_dim=96),
    "a norm for each product": Tiny("qwen3", input_norms=True, head="Q8_0", tied=False),
}


@pytest.fixture(autouse=True)
def built():
    library()


def mixed(engine, prompts, rng):
    """Every prompt's rows of logits, in steps of random composition: any slots, any length of each, any rows."""
    done, rows = [0] * len(prompts), [[] for _ in prompts]
    while any(n < len(tokens) for n, tokens in zip(done, prompts, strict=True)):
        batch = []
        for slot in rng.permutation(len(prompts)):
            left = len(prompts[slot]) - done[slot]
            if left and rng.random() < 0.7:
                count = int(min(left, rng.choice([1, 1, 2, 3, 7, 30, 90])))
                wanted = int(rng.integers(0, min(count, 8) + 1))
                batch.append(SlotInput(int(slot), done[slot], tuple(prompts[slot][done[slot] :][:count]), wanted))
        found = iter(engine.step(batch)) if batch else iter(())
        for entry in batch:
            done[entry.slot] += len(entry.tokens)
            if entry.n_logits:
                rows[entry.slot].append((done[entry.slot] - entry.n_logits, next(found).copy()))
    return rows


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow(4)
def test_any_batch_gives_the_bits_of_each_alone(tmp_path, isa, name):
    model = MODELS[name]
    path, rng = model.write(tmp_path / "model.gguf"), np.random.default_rng(3)
    # More than a native batch of 256 tokens together, and one slot beyond the first chunk of 512 positions.
    prompts = [tokens_of(model, n, seed=n) for n in ((30, 71, 140) if isa == "scalar" else (30, 150, 560))]
    settings = settings_of(n_ctx=576)
    with engine_of(path, settings, isa=isa) as engine:
        alone = []
        for tokens in prompts:
            alone.append(feed(engine, 0, tokens, step=30, rows=len(tokens)))
            engine.truncate(0, 0)
    for threads in (1,) if isa == "scalar" else (1, 2, 3):
        with engine_of(path, settings_of(n_ctx=576, threads=threads), isa=isa) as engine:
            for tokens, wanted, found in zip(prompts, alone, mixed(engine, prompts, rng), strict=True):
                assert sum(len(rows) for _, rows in found) >= len(tokens) / 20
                for at, rows in found:
                    np.testing.assert_array_equal(rows, wanted[at : at + len(rows)])


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", pytest.param("f32", marks=pytest.mark.slow(2))])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_decoding_one_by_one_is_a_prefill_of_all(tmp_path, kv_type, threads):
    """Decoding beyond 512 positions shares chunks out among threads; a prefill does not."""
    model = Tiny(layers=1, heads=3, kv_heads=1)
    path, tokens = model.write(tmp_path / "model.gguf"), tokens_of(model, 1040)
    with engine_of(path, settings_of(n_ctx=1056, n_slots=2, threads=threads, kv_type=kv_type)) as engine:
        whole = feed(engine, 0, tokens, step=512, rows=16)
        engine.step([SlotInput(1, 0, tuple(tokens[:500]), 0)])
        engine.step([SlotInput(1, 500, tuple(tokens[500:1000]), 0)])
        single = feed(engine, 1, tokens[1000:], n_past=1000, step=1, rows=16)
    np.testing.assert_array_equal(single, whole)


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize(("kv_type", "scale"), [("f16", 1e5), ("q8_0", 1e38), ("f32", 1e38)])
def test_a_value_beyond_the_cache_does_not_reach_rows_that_do_not_see_it(tmp_path, isa, kv_type, scale):
    """Tokens but 5 are small in the embedding, so only its value is infinite; it attends beside the token before it."""
    model = Tiny(layers=1)
    table = np.random.default_rng(4).normal(0, 1e-3, (model.vocab, model.hidden)).astype(np.float32)
    table[5] *= 1000
    embedding = (
        TensorInfo("token_embd.weight", (model.hidden, model.vocab), BY_NAME["F16"]),
        floats.encode(table, "F16"),
    )
    rows = model.matrices()["attn_v"][0]
    codes = np.random.default_rng(5).integers(0, 3, (rows, model.hidden), dtype=np.uint8)
    huge = CODECS["I2_S"](Ternary(codes, np.asarray(scale, np.float32)))
    value = (TensorInfo("blk.0.attn_v.weight", (model.hidden, rows), BY_NAME["I2_S"]), huge)
    path = model.write(tmp_path / "model.gguf", token_embd__weight=embedding, blk__0__attn_v__weight=value)
    with engine_of(path, settings_of(kv_type=kv_type), isa=isa) as engine:
        alone, beside = feed(engine, 0, [1, 2, 3]), feed(engine, 1, [1, 2, 3, 5])
    assert np.isfinite(beside).all()
    np.testing.assert_array_equal(beside[:3], alone)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", pytest.param("f32", marks=pytest.mark.slow(2))])
@pytest.mark.parametrize("kept", [0, 16, 17, *(pytest.param(n, marks=pytest.mark.slow(2)) for n in (1, 15, 100))])
def test_truncate_fork_save_and_load_leave_nothing_behind(tmp_path, kv_type, kept):
    model = Tiny()
    path = model.write(tmp_path / "model.gguf")
    first, second = tokens_of(model, 120, seed=1), tokens_of(model, 20, seed=2)
    settings = settings_of(n_ctx=160, kv_type=kv_type)
    with engine_of(path, settings) as engine:
        fresh = feed(engine, 0, first[:kept] + second)
        engine.truncate(0, 0)

        feed(engine, 0, first)
        feed(engine, 1, tokens_of(model, 130, seed=3))
        assert engine.fork(0, 1, kept) == kept
        state = engine.save_slot(0)
        assert engine.truncate(0, kept) == kept
        for slot in (0, 1):
            np.testing.assert_array_equal(feed(engine, slot, second, n_past=kept)[-16:], fresh[-16:])

        assert engine.load_slot(2, state) == 120
        assert engine.truncate(2, kept) == kept
        np.testing.assert_array_equal(feed(engine, 2, second, n_past=kept)[-16:], fresh[-16:])

        engine.truncate(0, kept)
        state = engine.save_slot(0)
    with engine_of(path, settings_of(n_ctx=kept + 20, kv_type=kv_type), isa="scalar") as other:
        other.step([SlotInput(1, 0, tuple(tokens_of(model, 20)), 0)])
        assert other.load_slot(1, state) == kept
        if kept:  # other kernels, the same cache
            found = feed(other, 1, second, n_past=kept)[-16:]
            assert np.linalg.norm(found - fresh[-16:]) <= 0.02 * np.linalg.norm(fresh[-16:])


def test_a_state_of_another_model_cache_or_length_is_refused(tmp_path):
    model, path, other = Tiny(), tmp_path / "model.gguf", tmp_path / "other.gguf"
    model.write(path)
    Tiny(seed=8).write(other)
    with engine_of(path, settings_of(n_ctx=64)) as engine:
        feed(engine, 0, tokens_of(model, 40))
        state = engine.save_slot(0)
        feed(engine, 1, tokens_of(model, 5))
        for wrong in (b"", state[:3], state[:20], state[:-1], state + b"\0", bytes(len(state))):
            with refuses(ValueError):
                engine.load_slot(1, wrong)
        np.testing.assert_array_equal(feed(engine, 1, [7], n_past=5), feed(engine, 2, [*tokens_of(model, 5), 7])[-1:])
    for wrong_path, settings in (
        (other, settings_of(n_ctx=64)), (path, settings_of(n_ctx=39)), (path, settings_of(n_ctx=64, kv_type="q8_0")),
    ):  # fmt: skip
        with engine_of(wrong_path, settings) as engine, refuses(ValueError):
            engine.load_slot(0, state)


def test_a_wrong_step_is_refused_and_changes_nothing(tmp_path):
    model = Tiny()
    with engine_of(model.write(tmp_path / "model.gguf"), settings_of(n_ctx=32, n_batch=33)) as engine:
        tokens = tokens_of(model, 30)
        wanted = feed(engine, 0, [*tokens, 5])
        engine.step([SlotInput(1, 0, tuple(tokens), 0)])
        good = SlotInput(2, 0, (1, 2), 1)
        for wrong, error in (
            (SlotInput(1, 30, (1, 2, 3), 1), CacheFull),
            (SlotInput(1, 29, (1,), 1), ValueError),
            (SlotInput(1, 30, (), 0), ValueError),
            (SlotInput(1, 30, (301,), 1), ValueError),
            (SlotInput(1, 30, (-1,), 1), ValueError),
        ):
            with refuses(error):
                engine.step([good, wrong])
        with refuses(ValueError):
            engine.step([SlotInput(2, 0, tuple(range(32)), 0), SlotInput(1, 30, (1, 2), 0)])
        np.testing.assert_array_equal(engine.step([SlotInput(1, 30, (5,), 1)])[0], wanted[-1:])
