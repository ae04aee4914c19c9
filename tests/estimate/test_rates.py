"""Speeds from a calibration: its terms, and what stands in for what it lacks."""

from __future__ import annotations

import dataclasses

import pytest
from edgellm_bitnet.priors import PRIORS

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.estimate import isa, recipe, speed
from edgellm.estimate.model_share import table_params
from edgellm.estimate.rates import Reader
from edgellm.estimate.weights import Weights, traits, weights
from edgellm.types.calibration import CALIBRATED_ROW, Calibration
from edgellm.types.machine import Cpu, Machine, Memory

HERE = Machine(
    "m", "m", Cpu("x86_64", "m", 4, 4, ("avx2", "avx512f")), Memory(16 << 30, None, 0, 20.0, "measured: 4", "measured")
)
RATES = Calibration(
    decode={("Q4_K", 1): 50.0, ("Q6_K", 1): 30.0, ("IQ2_XS", 1): 20.0, ("Q4_K", 4): 150.0, ("Q6_K", 4): 100.0},
    prefill={("Q4_K", 1): 120.0, ("Q6_K", 1): 200.0, ("IQ2_XS", 1): 220.0, ("Q4_K", 4): 480.0, ("Q6_K", 4): 800.0},
    attention={("f16", 1): 10.0, ("q8_0", 1): 5.0, ("f16", 4): 40.0},
    attention_prefill={("f16", 1): 30.0, ("f16", 4): 120.0},
    layer_s={1: 1e-5, 4: 2e-5}, element_s={1: 1e-9, 4: 1e-9}, element_prefill_s={1: 5e-10, 4: 2e-10},
    build="kernels 1", date="2026-11-24",
)  # fmt: skip
LLAMA = catalog()["llama-3.2-1b-instruct"]


def known(quant: str = "Q4_K_M") -> Weights:
    assert LLAMA.shape is not None
    return weights(LLAMA.shape, LLAMA.params, LLAMA.params_active, quant)


def decode(rates: Calibration | None = RATES, quant: str = "Q4_K_M", threads: int = 1, **more: object) -> float:
    assert LLAMA.shape is not None
    return speed.decode(HERE, LLAMA.shape, known(quant), threads, rates=rates, **more).tok_s  # type: ignore[arg-type]


def test_a_token_takes_its_weights_its_cache_and_its_layers() -> None:
    """By hand: 16 layers of 32 heads of 64 with 8 key/value heads, 100 tokens cached."""
    shape = LLAMA.shape
    assert shape is not None
    products = 2 * 16 * 32 * 64 * 100
    activations = 6 * 2048 + 3 * 8192 + 3 * 64 * (32 + 16)
    by_hand = dict(known().streamed_params)["Q4_K"] / 50e9 + dict(known().streamed_params)["Q6_K"] / 30e9
    by_hand += products / 10e9 + 16 * (1e-5 + activations * 1e-9)

    assert speed.products(shape, 100) == products
    assert speed.activations(shape) == activations
    assert decode(depth=100) == pytest.approx(1 / by_hand, rel=0.005)


def test_rows_that_are_shorter_than_the_measured_ones_cost_more() -> None:
    smol = catalog()["smollm2-135m-instruct"]
    assert smol.shape is not None
    size = weights(smol.shape, smol.params, smol.params_active, "Q4_K_M")
    rows = speed.extra_rows(smol.shape, size)
    slow = dataclasses.replace(
        RATES, row_s={("Q4_K", 1): 5e-9, ("Q6_K", 1): 5e-9, ("Q5_0", 1): 5e-9, ("Q8_0", 1): 5e-9}
    )
    n = sum(n for _, n in size.streamed_params)
    plain, costly = (1 / speed.decode(HERE, smol.shape, size, 1, rates=r).tok_s for r in (RATES, slow))

    # 576 weights in most rows, 1,536 in the down projections.
    assert n / 700 < rows + n / CALIBRATED_ROW < n / 576
    assert costly - plain == pytest.approx(rows * 5e-9, rel=0.1)


def test_noise_in_what_rows_cost_makes_no_model_faster_than_its_weights_are_read() -> None:
    noisy = dataclasses.replace(RATES, row_s={("Q4_K", 1): 1e-3, ("Q6_K", 1): 1e-3})

    # Rows of 8,192 weights save three quarters of what rows cost: at most half of a row.
    assert decode() < decode(noisy) < 2 * decode()


def test_the_basis_says_measured_when_and_with_what() -> None:
    assert LLAMA.shape is not None
    found = speed.decode(HERE, LLAMA.shape, known(), 1, rates=RATES)

    assert explain.basis(found.basis).startswith("measured: calibrated 2026-11-24 with kernels 1, 1 thread,")
    assert explain.basis(speed.prefill(HERE, LLAMA.shape, known(), 1, rates=RATES).basis).startswith("measured: ")
    assert explain.basis(speed.decode(HERE, LLAMA.shape, known(), 1).basis).startswith("predicted: ")
    assert found.low < found.tok_s < found.high


def test_a_type_that_was_not_measured_is_scaled_as_its_neighbour_and_the_basis_says_so() -> None:
    reader = Reader(RATES, isa.AVX512, 1)
    expected = 20e9 * isa.AVX512.decode_gw_s("IQ2_S") / isa.AVX512.decode_gw_s("IQ2_XS")

    assert reader.decode("IQ2_S") == pytest.approx(expected)
    assert reader.decode("Q4_K") == 50e9
    assert explain.basis(reader.basis()).endswith("IQ2_S scaled as IQ2_XS")


@pytest.mark.parametrize(
    ("threads", "used", "share"), [(1, 1, 1.0), (2, 4, 0.5), (3, 4, 0.75), (4, 4, 1.0), (8, 4, 1.0)]
)
def test_other_numbers_of_threads_are_taken_from_the_next_larger(threads: int, used: int, share: float) -> None:
    reader = Reader(RATES, isa.AVX512, threads)

    assert reader.decode("Q4_K") == RATES.decode["Q4_K", used] * 1e9 * share
    assert (f"from the rates of {used}" in explain.basis(reader.basis())) == (threads != used)


def test_a_quantized_cache_has_its_own_rate_and_a_long_one_costs_time() -> None:
    assert decode(depth=8192, kv_type="q8_0") < decode(depth=8192) < decode(depth=64)


def test_a_prompt_pays_for_its_type_of_cache() -> None:
    """By hand: how much longer a token takes than with an F16 cache; a type that was not measured is taken as F16."""
    assert LLAMA.shape is not None
    rates = dataclasses.replace(RATES, attention_prefill={("f16", 1): 30.0, ("q8_0", 1): 15.0})
    seconds = {
        kind: 1 / speed.prefill(HERE, LLAMA.shape, known(), 1, tokens=512, kv_type=kind, rates=rates).tok_s
        for kind in ("f16", "q8_0", "q4_0")
    }
    by_hand = speed.products(LLAMA.shape, 256) * (1 / 15e9 - 1 / 30e9)

    assert seconds["q8_0"] - seconds["f16"] == pytest.approx(by_hand, rel=0.15)
    assert seconds["q4_0"] == seconds["f16"]


HEADS = dataclasses.replace(
    RATES, attention_by_head={("f16", 64, 1): 8.0, ("f16", 96, 1): 3.0, ("f16", 256, 1): 12.0, ("f16", 64, 4): 32.0}
)


def test_a_head_costs_time_beside_its_products() -> None:
    """Seconds of a head for a cached token lie on lines between the measured sizes, 128 among them."""
    reader = Reader(HEADS, isa.AVX512, 1)
    ns = {size: size / reader.attention("f16", size) * 1e9 for size in (64, 128, 192, 256, 512)}

    assert ns[64] == pytest.approx(64 / 8)
    assert ns[128] == pytest.approx(128 / 10)
    assert ns[192] == pytest.approx((ns[128] + ns[256]) / 2)
    assert ns[512] == pytest.approx(2 * ns[256])
    # The other types of cache were measured in one size.
    assert reader.attention("q8_0", 64) == pytest.approx(5e9)
    assert Reader(RATES, isa.AVX512, 1).attention("f16", 64) == pytest.approx(10e9)


def test_a_head_that_fills_no_register_costs_more_by_what_is_left_over() -> None:
    reader = Reader(HEADS, isa.AVX512, 1)
    ns = {size: size / reader.attention("f16", size) * 1e9 for size in (64, 80, 96, 112, 128)}
    line = {size: ns[64] + (ns[128] - ns[64]) * (size - 64) / 64 for size in ns}

    assert ns[96] == pytest.approx(96 / 3)
    assert ns[80] - line[80] == pytest.approx((ns[96] - line[96]) / 2)
    assert ns[112] - line[112] == pytest.approx((ns[96] - line[96]) * 1.5)


APART = dataclasses.replace(
    HEADS,
    attention_apart_s={
        ("f16", 128, 2, 1): 10e-9, ("f16", 128, 4, 1): 60e-9, ("f16", 128, 8, 1): 80e-9,
        ("f16", 64, 8, 1): 20e-9, ("f16", 256, 8, 1): 40e-9,
    },
)  # fmt: skip


def late(head_dim: int, n_head_kv: int, group: int = 1) -> float:
    """Nanoseconds that a query head takes longer for a cached token than where there is one head."""
    reader = Reader(APART, isa.AVX512, 1)
    rates = reader.attention("f16", head_dim, n_head_kv, group), reader.attention("f16", head_dim)
    return 2 * head_dim * (1 / rates[0] - 1 / rates[1]) * 1e9


def test_keys_that_lie_apart_come_late_once_for_all_heads_that_read_them() -> None:
    assert late(128, 8) == pytest.approx(80)
    assert late(128, 8, group=4) == pytest.approx(20)
    assert late(128, 1) == 0
    assert late(128, 3) == pytest.approx(35)
    assert late(128, 32) == pytest.approx(80)
    # Other sizes with most heads as measured, with fewer by the share that 128 numbers have then.
    assert late(64, 8) == pytest.approx(20)
    assert late(96, 8) == pytest.approx(50)
    assert late(256, 2) == pytest.approx(40 / 8)
    assert late(512, 8) == pytest.approx(40)


def test_what_keys_wait_for_is_that_of_their_type_of_cache() -> None:
    reader = Reader(APART, isa.AVX512, 1)

    assert reader.attention("q8_0", 128, 8) == pytest.approx(5e9)
    assert Reader(HEADS, isa.AVX512, 1).attention("f16", 128, 8) == pytest.approx(10e9)


def test_scatter_widens_the_lower_end() -> None:
    assert LLAMA.shape is not None
    calm, rough = (
        speed.decode(HERE, LLAMA.shape, known(), 1, rates=dataclasses.replace(RATES, scatter=scatter))
        for scatter in (0.0, 0.2)
    )

    assert rough.low < calm.low
    assert rough.high == calm.high


def test_a_calibration_of_products_alone_is_enough() -> None:
    """As the ternary engine's."""
    alone = Calibration({("I2_S", 1): 140.0, ("Q6_K", 1): 40.0}, {("I2_S", 1): 540.0, ("Q6_K", 1): 90.0})
    bitnet = catalog()["bitnet-b1.58-2b-4t"]
    assert bitnet.shape is not None
    size = weights(bitnet.shape, bitnet.params, bitnet.params_active, "TQ2_0")
    ternary = Weights(0, 0, tuple(("I2_S" if k == "TQ2_0" else k, n) for k, n in size.streamed_params), exact=True)

    # Measured there with one thread: 44.3 and 200 (docs/benchmarks/log/ternary.md).
    assert speed.decode(HERE, bitnet.shape, ternary, 1, depth=64, rates=alone).tok_s == pytest.approx(44.3, rel=0.25)
    assert speed.prefill(HERE, bitnet.shape, ternary, 1, rates=alone).tok_s == pytest.approx(200, rel=0.3)


def test_the_ternary_engine_has_priors_of_its_own() -> None:
    """2 threads where the probe saw 45 to 75 GB/s: 69.5 and 396 were measured, and 32 and 90 of llama.cpp."""
    bitnet = catalog()["bitnet-b1.58-2b-4t"]
    assert bitnet.shape is not None
    lab = dataclasses.replace(HERE, memory=dataclasses.replace(HERE.memory, bandwidth_gb_s=60.0))
    size = weights(bitnet.shape, bitnet.params, bitnet.params_active, "TQ2_0")
    ours, theirs = (speed.decode(lab, bitnet.shape, size, 2, depth=64, own=own).tok_s for own in (PRIORS.rates, {}))
    prompts = speed.prefill(lab, bitnet.shape, size, 2, own=PRIORS.rates).tok_s

    assert ours == pytest.approx(69.5, rel=0.3)
    assert theirs < ours
    assert prompts == pytest.approx(396, rel=0.3)


def test_the_output_table_is_found_among_the_types() -> None:
    """For every dense model and mix: what `prefill` leaves out is what the recipe calls the head."""
    checked = 0
    for card in catalog().values():
        shape = card.shape
        if shape is None or shape.n_expert or card.params > 2e9:
            continue
        facts = traits(shape)
        for quant in ("Q4_K_M", "Q8_0", "Q5_K_M", "IQ4_XS", "IQ2_XS", "Q2_K", "F16", "TQ2_0"):
            size = weights(shape, card.params, card.params_active, quant)
            role = "token_embd" if shape.tied_embeddings else "output"
            wanted = recipe.tensor_type(role, 0, shape.n_layer, quant, facts)
            kind, n = table_params(shape, size)
            checked += 1
            assert n == shape.n_embd * shape.n_vocab, (card.id, quant)
            assert kind in {wanted, "Q8_0"}, (card.id, quant)
    assert checked > 100


def test_types_that_are_unknown_here_stand_in_for_no_other() -> None:
    strange = dataclasses.replace(RATES, decode=RATES.decode | {("ANOTHER", 1): 50.0})
    alone = dataclasses.replace(RATES, decode={("ANOTHER", 1): 50.0})

    assert decode(strange, "Q8_0") == decode(RATES, "Q8_0")
    assert decode(alone) > 0


def test_latent_attention_multiplies_its_rows_as_keys_and_as_values() -> None:
    latent = dataclasses.replace(
        LLAMA.shape, arch="deepseek2", n_layer=2, n_head=20, n_head_kv=1, kv_full_bytes=2 * 576 * 2
    )
    assert speed.products(latent, 100) == pytest.approx(2 * 20 * (576 + 512) * 100)
