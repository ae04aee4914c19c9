"""Copies of weights in another layout, against what llama.cpp allocated for them."""

from __future__ import annotations

import pytest
from edgellm_gguf.repacking import of_stock_build, of_types

from edgellm.catalog.lookup import catalog
from edgellm.estimate.repack import repacked_bytes
from edgellm.types.machine import Cpu
from edgellm.units import MIB

AVX512 = of_stock_build(Cpu("x86_64", isa=("avx", "avx2", "avx512f", "ssse3")))
AVX2 = of_stock_build(Cpu("x86_64", isa=("avx", "avx2", "ssse3")))
DOTPROD = of_stock_build(Cpu("aarch64", isa=("dotprod", "neon")))


@pytest.mark.parametrize(
    ("model", "quant", "copied_mib"),
    # CPU_REPACK in the log of llama.cpp on a processor with AVX-512.
    [
        ("smollm2-135m-instruct", "Q4_0", 56.95),
        ("smollm2-135m-instruct", "Q4_1", 0.0),
        ("qwen3-0.6b", "Q4_0", 236.25),
        ("llama-3.2-1b-instruct", "Q4_0", 522.0),
    ],
)
def test_copies_are_what_the_library_allocates(model: str, quant: str, copied_mib: float) -> None:
    shape = catalog()[model].shape
    assert shape is not None
    total, table = repacked_bytes(shape, quant, AVX512)

    assert total / MIB == pytest.approx(copied_mib, abs=0.01)
    assert table == 0


def test_more_types_are_copied_on_arm_the_table_with_them() -> None:
    shape = catalog()["llama-3.2-1b-instruct"].shape
    assert shape is not None

    assert AVX512.types - {"Q2_K"} == AVX2.types
    assert "Q6_K" in DOTPROD.types
    total, table = repacked_bytes(shape, "Q4_0", DOTPROD)
    # Its table is Q6_K, 210 bytes for 256 weights, and the output table too.
    assert table == 128256 * 2048 // 256 * 210
    assert total == table + 522 * MIB
    assert repacked_bytes(shape, "Q4_0", of_types(())) == (0, 0)


def test_a_function_whose_signature_is_not_stated_is_none_of_ours() -> None:
    from edgellm_gguf import ggml

    assert not hasattr(ggml.library, "ggml_n_dims")
