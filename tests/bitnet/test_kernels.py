"""Every instruction set that this processor runs, against numpy and against the scalar kernels."""

from __future__ import annotations

import numpy as np
import pytest
from bitnet.packed import (
    Packed,
    blocks_of,
    isa_number,
    library,
    one_scale,
    quantized,
    real,
    requantized,
    ternary,
    usable,
)  # fmt: skip
from edgellm_bitnet import native
from edgellm_bitnet.codecs import i2_s, q1_0, q2_0, tq1_0, tq2_0
from edgellm_bitnet.codecs import packed as hf_packed
from edgellm_bitnet.matrix import BF16, F16, F32, Q4, Q6, Q8, TERNARY
from edgellm_bitnet.ternary import Ternary
from support.refusals import refuses

from edgellm.errors import BackendUnavailable

ROWS, COLS = 45, 512  # two panels, the second with padding
WIDTHS = [*range(1, 14), 25]  # every tile, and several of them
MATRICES = {
    "ternary": lambda rng: ternary(rng, ROWS, COLS),
    "ternary, odd columns": lambda rng: ternary(rng, ROWS, 340),
    "ternary by 64": lambda rng: ternary(rng, ROWS, COLS, 64),
    "ternary by 128": lambda rng: ternary(rng, ROWS, COLS, 128),
    "ternary by 256": lambda rng: ternary(rng, ROWS, COLS, 256),
    "Q4_0": lambda rng: blocks_of(Q4, rng, ROWS, COLS),
    "Q6_K": lambda rng: blocks_of(Q6, rng, ROWS, COLS),
    "Q8_0": lambda rng: blocks_of(Q8, rng, ROWS, COLS),
    "int8": lambda rng: requantized(Q8, 0, rng, ROWS, COLS),
    "int4": lambda rng: requantized(Q4, 32, rng, ROWS, COLS),
    "F16": lambda rng: real(F16, rng, ROWS, COLS),
    "BF16": lambda rng: real(BF16, rng, ROWS, COLS),
    "F32": lambda rng: real(F32, rng, ROWS, COLS),
}
QUANTIZED = [name for name in MATRICES if name not in ("F16", "BF16", "F32")]


def activations(pattern, rng, tokens, cols):
    if pattern == "random":
        return rng.integers(-128, 128, (tokens, cols), np.int8)
    if pattern == "sparse":
        q = np.zeros((tokens, cols), np.int8)
        at = rng.integers(0, cols, (tokens, 5))
        np.put_along_axis(q, at, rng.choice(np.array([-128, 127], np.int8), at.shape), axis=1)
        return q
    return np.full((tokens, cols), int(pattern), np.int8)


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize("pattern", ["random", "-128", "127", "sparse"])
@pytest.mark.parametrize(
    ("cols", "widths"), [(64, WIDTHS), (340, WIDTHS), (2560, WIDTHS), (6912, (1, 2, 5, 13)), (27648, (1, 3, 12))]
)
def test_integer_sums_are_numpys(isa, pattern, cols, widths):
    rng = np.random.default_rng(cols)
    weights = ternary(rng, 40, cols, scale=1)
    for width in widths:
        q = activations(pattern, rng, width, cols)
        np.testing.assert_array_equal(weights.integer_sums(isa, q), q.astype(np.int64) @ weights.integers.T)


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize("pattern", ["random", "-128", "127", "sparse"])
@pytest.mark.parametrize("low", [-128, 127, None])
@pytest.mark.parametrize("cols", [256, 512])
def test_integer_sums_of_full_bytes_do_not_saturate(isa, pattern, low, cols):
    """Q8 codes of -128 and 127 against activations of -128 and 127: the sums a 16-bit step would wrap."""
    rng = np.random.default_rng(3)
    weights = Packed(Q8, 40, cols)
    values = rng.integers(-128, 128, (40, cols), np.int16) if low is None else np.full((40, cols), low, np.int16)
    weights.parts[1].view(np.float32)[:] = 1
    codes = np.zeros((64, cols), np.uint8)
    codes[:40] = values + 128
    weights.parts[0][:] = codes.reshape(2, 32, -1, 4).swapaxes(1, 2).reshape(-1)  # [panel][cols / 4][32][4]
    for width in (1, 2, 7, 13):
        q = activations(pattern, rng, width, cols)
        np.testing.assert_array_equal(weights.integer_sums(isa, q), q.astype(np.int64) @ values.T.astype(np.int64))


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize("name", MATRICES)
def test_products_are_numpys_and_the_scalar_kernels(isa, name):
    rng = np.random.default_rng(5)
    weights = MATRICES[name](rng)
    x = rng.normal(size=(7, weights.cols)).astype(np.float32) * np.float32(3)
    found, (wanted, bound) = weights.product(isa, x), weights.wanted(x)
    oracle = weights.product("scalar", x)

    assert (np.abs(found - wanted) <= 2e-6 * bound + 1e-30).all()
    if weights.span == weights.cols and weights.real is None:  # one sum, one product: nothing to round differently
        np.testing.assert_array_equal(found, oracle)
    assert (np.abs(found - oracle) <= 4e-6 * bound + 1e-30).all()


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize("name", ["ternary", "ternary by 256", "ternary by 64", "Q6_K", "Q8_0"])
def test_products_with_a_scale_for_256_activations_are_numpys(isa, name):
    rng = np.random.default_rng(6)
    weights = MATRICES[name](rng)
    x = rng.normal(size=(5, weights.cols)).astype(np.float32)
    x[1, :256] = 0  # a block without a scale
    wanted, bound = weights.wanted(x, 256)
    assert (np.abs(weights.product(isa, x, block=256) - wanted) <= 2e-6 * bound + 1e-30).all()


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize("name", MATRICES)
def test_a_token_has_the_same_bits_alone_and_in_a_batch(isa, name):
    rng = np.random.default_rng(7)
    weights = MATRICES[name](rng)
    x = rng.normal(size=(25, weights.cols)).astype(np.float32)
    alone = np.concatenate([weights.product(isa, x[i : i + 1]) for i in range(len(x))])
    for width in WIDTHS:
        np.testing.assert_array_equal(weights.product(isa, x[:width]), alone[:width])
    np.testing.assert_array_equal(weights.product(isa, x, threads=3), alone)


@pytest.mark.parametrize("isa", usable())
def test_wide_rows_have_the_same_bits_alone_and_in_a_batch(isa):
    rng = np.random.default_rng(8)
    weights = ternary(rng, 33, 6912)
    x = rng.normal(size=(13, 6912)).astype(np.float32)
    alone = np.concatenate([weights.product(isa, x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_array_equal(weights.product(isa, x), alone)
    wanted, bound = weights.wanted(x)
    assert (np.abs(alone - wanted) <= 1e-6 * bound).all()


@pytest.mark.parametrize("isa", usable())
def test_activations_are_rounded_half_to_even_and_padding_counts_nothing(isa):
    x = np.zeros((1, 100), np.float32)
    x[0, :7] = 127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5
    weights = ternary(np.random.default_rng(9), 33, 100)
    assert quantized(x)[0][0, :7].tolist() == [127, 0, 2, 2, 0, -2, -126]
    np.testing.assert_array_equal(weights.product(isa, x), weights.wanted(x)[0].astype(np.float32))


@pytest.mark.parametrize("name", MATRICES)
def test_a_row_read_back_is_what_was_packed(name):
    weights = MATRICES[name](np.random.default_rng(10))
    np.testing.assert_array_equal(np.stack([weights.row(i) for i in range(ROWS)]), weights.dense())


SOURCES = {
    "i2_s": (i2_s.encode, 0), "i2_s_arm": (lambda t: i2_s.encode(t, layout="arm"), 0), "tq2_0": (tq2_0.encode, 256),
    "tq1_0": (tq1_0.encode, 256), "q2_0": (q2_0.encode, 64), "q1_0": (q1_0.encode, 128),
    "packed": (lambda t: hf_packed.encode(t, linear_class="autobitlinear")[0], 0),
}  # fmt: skip


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("source", SOURCES)
def test_every_ternary_source_packs_to_what_it_means(source, threads):
    rng = np.random.default_rng(11)
    encode, group = SOURCES[source]
    codes = rng.integers(0, 3, (ROWS - 1, COLS)).astype(np.uint8)
    codes = codes if source != "q1_0" else codes // 2 * 2
    scales = np.float16(rng.uniform(0.1, 2, (ROWS - 1, COLS // group) if group else ())).astype(np.float32)
    given = Ternary(codes, np.asarray(scales), group)
    raw = np.frombuffer(encode(given), np.uint8)
    weights = Packed(TERNARY, ROWS - 1, COLS, group)
    packing = (native.SOURCES.index(source), raw.ctypes.data, ROWS - 1, COLS)

    assert library().bn_pack_ternary(*packing, weights.struct, 0, 1.0 if group else float(scales), threads) == 0
    np.testing.assert_array_equal(np.stack([weights.row(i) for i in range(ROWS - 1)]), given.dense())


@pytest.mark.parametrize("source", ["tq2_0", "tq1_0", "q2_0", "q1_0"])
def test_one_scale_is_seen_through_blocks_and_zero_blocks_do_not_count(source):
    encode, group = SOURCES[source]
    codes = np.random.default_rng(12).integers(0, 2, (4, COLS)).astype(np.uint8) * 2
    scales = np.full((4, COLS // group), 0.375, np.float32)
    raw = np.frombuffer(encode(Ternary(codes, scales, group)), np.uint8)
    assert one_scale(source, raw, 4, COLS) == np.float32(0.375)
    if source != "q1_0":  # which has no zeros
        codes[1, :group], scales[1, 0] = 1, 7
        assert one_scale(source, np.frombuffer(encode(Ternary(codes, scales, group)), np.uint8), 4, COLS) == 0.375
    scales[2, 0] = 0.5
    assert one_scale(source, np.frombuffer(encode(Ternary(codes, scales, group)), np.uint8), 4, COLS) is None


@pytest.mark.parametrize("threads", [1, 3])
def test_code_3_is_refused_by_the_first_place_it_is_at(threads):
    codes = np.ones((ROWS, COLS), np.uint8)
    codes[30, 7] = codes[44, 0] = codes[31, 0] = 3
    weights, packing = Packed(TERNARY, ROWS, COLS), (0, codes.ctypes.data, ROWS, COLS)
    assert library().bn_pack_ternary(*packing, weights.struct, 0, 1.0, threads) == 1 + 30 * COLS + 7


def test_the_named_instruction_set_is_taken_and_others_are_refused(monkeypatch):
    library()
    known = native.isas()
    for isa, can in known.items():
        monkeypatch.setenv("EDGELLM_BITNET_ISA", isa)
        if can:
            assert native.isa_index() == isa_number(isa)
        else:
            with pytest.raises(BackendUnavailable):  # which these are, and how many, depends on the processor
                native.isa_index()
    monkeypatch.setenv("EDGELLM_BITNET_ISA", "mmx")
    with refuses(BackendUnavailable, varies="(?<=one of ).*(?=scalar)"):
        native.isa_index()
    monkeypatch.delenv("EDGELLM_BITNET_ISA")
    assert list(known)[native.isa_index()] == next(isa for isa, can in known.items() if can)


def test_the_library_itself_refuses_an_instruction_set_that_cannot_run():
    weights = ternary(np.random.default_rng(13), 40, 64)
    x, y = np.zeros((1, 64), np.float32), np.zeros((1, 64), np.float32)
    cannot = [isa_number(isa) for isa, can in native.isas().items() if not can]
    for number in [-1, len(native.isas()), *cannot]:
        assert library().bn_matmul(number, weights.struct, x.ctypes.data, 1, 0, y.ctypes.data, 1, 0) < 0
        sums = np.zeros((1, 64), np.int32)
        assert library().bn_integer_sums(number, weights.struct, x.ctypes.data, 1, sums.ctypes.data) != 0
