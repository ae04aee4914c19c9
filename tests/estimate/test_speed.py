"""Predicted rates against published ones, and what a rate may depend on."""

from __future__ import annotations

import statistics

import pytest

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.estimate import isa, speed
from edgellm.estimate.weights import weights
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.plan import Rate

AVX2 = ("avx", "avx2", "f16c", "fma", "ssse3")
AVX512 = (*AVX2, "avx512bw", "avx512f", "avx512vnni")


def machine(
    cores: int,
    names: tuple[str, ...],
    gb_s: float | None,
    arch: str = "x86_64",
    *,
    measured: bool = False,
    contended: bool = False,
) -> Machine:
    source = "measured" if measured else "theoretical"
    ram = Memory(16 * 1024**3, None, 0, gb_s, source, source, bandwidth_contended=contended)
    return Machine("m", "m", Cpu(arch, "m", cores, cores, names), ram)


PI5 = machine(4, ("dotprod", "neon"), 17.1, "aarch64")
PI4 = machine(4, ("neon",), 12.8, "aarch64")
N150 = machine(4, AVX2, 25.6)
RYZEN_7840HS = machine(8, AVX512, 89.6)
LAB = machine(2, AVX512, 38.0, measured=True)

# Measured on mainline llama.cpp (sources: docs/explain/speed-model.md): tok/s with next to nothing cached.
PUBLISHED = [
    (PI5, "llama-3.2-3b-instruct", "Q4_K_M", 4.88),
    (PI5, "llama-3.1-8b-instruct", "Q4_K_M", 2.17),
    (PI4, "llama-3.2-3b-instruct", "Q4_K_M", 1.6),
    (N150, "llama-3.2-3b-instruct", "Q4_K_M", 9.06),
    (RYZEN_7840HS, "qwen3-8b", "Q4_K_M", 12.27),
    (RYZEN_7840HS, "qwen3-4b", "Q4_K_M", 22.3),
    (RYZEN_7840HS, "qwen3-0.6b", "Q4_K_M", 121.0),
    (RYZEN_7840HS, "qwen3-0.6b", "Q2_K", 152.0),
    (RYZEN_7840HS, "olmo-2-1b-instruct", "Q4_K_M", 66.0),
    (RYZEN_7840HS, "gemma-3-1b-it", "Q4_K_M", 61.0),
    (RYZEN_7840HS, "smollm2-135m-instruct", "Q8_0", 305.0),
    (LAB, "bitnet-b1.58-2b-4t", "Q4_0", 23.56),
    (LAB, "bitnet-b1.58-2b-4t", "TQ2_0", 29.7),
    (LAB, "bitnet-b1.58-2b-4t", "TQ1_0", 20.5),
    (LAB, "bitnet-b1.58-2b-4t", "Q4_K_M", 22.48),
]


def predict(on: Machine, name: str, quant: str, *, threads: int | None = None, depth: int = 64) -> Rate:
    card = catalog()[name]
    assert card.shape is not None
    found = weights(card.shape, card.params, card.params_active, quant)
    return speed.decode(on, card.shape, found, threads or on.compute_threads, depth=depth)


def test_published_rates_are_met_within_a_factor() -> None:
    """In-sample for some rows: the table was made from them."""
    off = [predict(on, name, quant).tok_s / rate for on, name, quant, rate in PUBLISHED]
    factors = [max(x, 1 / x) for x in off]

    assert statistics.median(factors) <= 1.3, off
    assert max(factors) <= 2.0, off


def test_a_measured_bandwidth_is_taken_as_it_is_and_a_theoretical_one_is_not() -> None:
    # So many cores that memory is all that counts.
    measured = predict(machine(512, AVX512, 20.0, measured=True), "qwen3-8b", "Q4_K_M").tok_s
    theoretical = predict(machine(512, AVX512, 20.0), "qwen3-8b", "Q4_K_M").tok_s

    assert theoretical == pytest.approx(measured * speed.THEORETICAL_REACHED, rel=0.02)


def test_the_basis_says_what_the_number_rests_on() -> None:
    assert "measured" in explain.basis(predict(LAB, "qwen3-0.6b", "Q4_K_M").basis)
    assert "theoretical" in explain.basis(predict(PI5, "qwen3-0.6b", "Q4_K_M").basis)
    unknown = predict(machine(4, AVX2, None), "qwen3-0.6b", "Q4_K_M")

    assert "unknown" in explain.basis(unknown.basis)
    assert unknown.high / unknown.low > 4
    assert unknown.low < unknown.tok_s < unknown.high


def test_codebooks_are_slower_where_arithmetic_is_short() -> None:
    """The zip effect: fewer bits, fewer tokens."""
    few_cores = machine(2, AVX512, 89.6)
    small, big = (predict(few_cores, "qwen3-8b", quant) for quant in ("IQ3_S", "Q4_K_M"))

    assert small.tok_s < big.tok_s
    assert "arithmetic-bound" in explain.basis(small.basis)


def test_a_full_cache_is_read_for_every_token() -> None:
    assert predict(PI5, "qwen3-0.6b", "Q4_K_M", depth=8192).tok_s < predict(PI5, "qwen3-0.6b", "Q4_K_M").tok_s / 1.5


def test_more_threads_are_never_slower() -> None:
    rates = [predict(RYZEN_7840HS, "qwen3-4b", "Q4_K_M", threads=n).tok_s for n in (1, 2, 4, 8)]

    assert rates == sorted(rates)
    assert rates[0] < rates[1]


def test_prompts_gain_from_a_matrix_product_only_where_there_is_one() -> None:
    card = catalog()["bitnet-b1.58-2b-4t"]
    assert card.shape is not None
    rate = {
        quant: speed.prefill(LAB, card.shape, weights(card.shape, card.params, card.params_active, quant), 2).tok_s
        for quant in ("Q4_K_M", "TQ1_0")
    }

    # Measured there: 69.9 and 28.2.
    assert rate["Q4_K_M"] > 1.8 * rate["TQ1_0"]
    assert rate["Q4_K_M"] == pytest.approx(69.9, rel=0.5)


@pytest.mark.parametrize(
    ("cpu", "os", "expected"),
    [
        (Cpu("x86_64", isa=("amx_int8", "avx2", "avx512f")), "linux", isa.AMX),
        (Cpu("x86_64", isa=AVX512), "linux", isa.AVX512),
        (Cpu("x86_64", isa=AVX2), "windows", isa.AVX2),
        (Cpu("x86_64", isa=("avx", "ssse3")), "linux", isa.AVX),
        (Cpu("x86_64", isa=("ssse3",)), "linux", isa.SSSE3),
        (Cpu("x86_64"), "linux", isa.SCALAR),
        (Cpu("aarch64", isa=("dotprod", "i8mm", "neon")), "linux", isa.ARM_I8MM),
        (Cpu("aarch64", isa=("dotprod", "neon")), "linux", isa.ARM_DOTPROD),
        (Cpu("aarch64", isa=("neon",)), "linux", isa.ARM_NEON),
        (Cpu("arm64", "Apple M2", isa=("dotprod", "neon")), "darwin", isa.APPLE),
        (Cpu("armv6l"), "linux", isa.SCALAR),
        (Cpu("riscv64"), "linux", isa.SCALAR),
    ],
)
def test_processors_are_classed_by_what_programs_may_use(cpu: Cpu, os: str, expected: isa.IsaClass) -> None:
    assert isa.isa_class(cpu, os) is expected


def test_a_bandwidth_measured_beside_other_programs_is_told_as_such() -> None:
    card = catalog()["qwen3-0.6b"]
    assert card.shape is not None
    sizes = weights(card.shape, card.params, card.params_active, "Q4_K_M")
    busy = machine(2, AVX2, 12.3, measured=True, contended=True)

    assert "12.3 GB/s measured beside other programs" in explain.basis(speed.decode(busy, card.shape, sizes, 2).basis)
