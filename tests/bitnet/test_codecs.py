"""Every ternary format against ggml's own code, byte-level examples and its own inverse; what it refuses, by name."""

from __future__ import annotations

import numpy as np
import pytest
from bitnet import ggml
from edgellm_bitnet.codecs import floats, i2_s, master, packed, q1_0, q2_0, tq1_0, tq2_0
from edgellm_bitnet.ternary import Ternary
from hypothesis import given
from hypothesis import strategies as st
from support.refusals import refuses

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.ggml_types import BY_NAME

BLOCK_CODECS = {"TQ1_0": tq1_0, "TQ2_0": tq2_0, "Q2_0": q2_0, "Q1_0": q1_0}
SHAPES = [(1, 256), (3, 512), (8, 1280)]


def random_ternary(seed, rows, cols, *, group=0, zeros=True):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (rows, cols), np.uint8) if zeros else rng.integers(0, 2, (rows, cols), np.uint8) * 2
    shape = (rows, cols // group) if group else ()
    scales = np.float16(rng.uniform(1e-3, 2, shape)).astype(np.float32)  # float16 holds them exactly
    return Ternary(codes.astype(np.uint8), np.asarray(scales), group)


def same(found, wanted):
    np.testing.assert_array_equal(found.codes, wanted.codes)
    np.testing.assert_array_equal(found.dense(), wanted.dense())


@pytest.mark.parametrize("name", BLOCK_CODECS)
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_what_is_encoded_means_the_same_to_ggml(name, rows, cols):
    codec = BLOCK_CODECS[name]
    ternary = random_ternary(rows, rows, cols, group=codec.BLOCK, zeros=name != "Q1_0")
    raw = codec.encode(ternary)

    assert len(raw) == BY_NAME[name].size_bytes(rows * cols)
    np.testing.assert_array_equal(ggml.dequantize(name, raw, rows, cols), ternary.dense())
    same(codec.decode(raw, rows, cols), ternary)


@pytest.mark.parametrize("name", BLOCK_CODECS)
def test_what_ggml_quantizes_is_decoded_bit_for_bit(name):
    ternary = random_ternary(7, 4, 1024, group=BLOCK_CODECS[name].BLOCK, zeros=name != "Q1_0")
    raw = ggml.quantize(name, ternary.dense())
    found = BLOCK_CODECS[name].decode(raw, 4, 1024)

    np.testing.assert_array_equal(found.dense(), ggml.dequantize(name, raw, 4, 1024))
    assert BLOCK_CODECS[name].encode(found) == raw


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0", "Q1_0"])
def test_any_bytes_with_sound_scales_decode_as_ggml_does(name):
    codec, rng = BLOCK_CODECS[name], np.random.default_rng(11)
    raw = rng.integers(0, 256, (64, codec.BYTES), np.uint8)
    if name == "TQ2_0":
        raw &= ~(raw & raw >> 1 & 0x55)  # no code 3
    at = slice(0, 2) if name == "Q1_0" else slice(codec.BYTES - 2, None)
    raw[:, at] = np.float16(rng.uniform(0, 4, (64, 1))).view(np.uint8)

    found = codec.decode(raw.tobytes(), 4, 16 * codec.BLOCK)
    np.testing.assert_array_equal(found.dense(), ggml.dequantize(name, raw.tobytes(), 4, 16 * codec.BLOCK))


@given(st.data())
def test_every_codec_undoes_itself(data):
    codec = data.draw(st.sampled_from([tq1_0, tq2_0, q2_0, i2_s]))
    rows, blocks = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    block = getattr(codec, "BLOCK", 128)
    ternary = random_ternary(data.draw(st.integers(0, 2**32)), rows, blocks * block, group=getattr(codec, "BLOCK", 0))

    same(codec.decode(codec.encode(ternary), rows, blocks * block), ternary)


def test_i2_s_byte_by_byte():
    """Weights 0, 32, 64 and 96 share byte 0, the first in the high bits; then the scale and 28 bytes of padding."""
    codes = np.ones((1, 128), np.uint8)
    codes[0, [0, 32, 64, 96]] = [2, 0, 1, 2]
    codes[0, 127] = 0
    raw = i2_s.encode(Ternary(codes, np.asarray(np.float32(0.5))))

    assert raw[0] == 0b10_00_01_10
    assert raw[1:31] == bytes([0b01_01_01_01]) * 30
    assert raw[31] == 0b01_01_01_00
    assert raw[32:36] == bytes.fromhex("0000003f")
    assert raw[36:] == bytes(28)
    same(i2_s.decode(raw[:36] + b"\xa5" * 28, 1, 128), Ternary(codes, np.asarray(np.float32(0.5))))


def test_i2_s_written_on_arm_byte_by_byte():
    codes = np.ones((1, 128), np.uint8)
    codes[0, [0, 16, 32, 48, 64]] = [2, 0, 1, 2, 0]
    ternary = Ternary(codes, np.asarray(np.float32(0.5)))
    raw = i2_s.encode(ternary, layout="arm")

    assert raw[0] == 0b10_00_01_10
    assert raw[16] == 0b00_01_01_01
    same(i2_s.decode(raw, 1, 128, layout="arm"), ternary)
    assert (i2_s.decode(raw, 1, 128).codes != codes).any()


def test_an_i2_s_row_may_start_inside_a_block():
    ternary = random_ternary(2, 2, 192)
    flat = Ternary(ternary.codes.reshape(1, 384), ternary.scales)

    same(i2_s.decode(i2_s.encode(flat), 2, 192), ternary)
    with refuses(UnsupportedArtifact):
        i2_s.encode(ternary, where="blk")  # bitnet.cpp's kernels read such rows wrong
    with refuses(BadArtifact):
        i2_s.decode(bytes(192 // 4 + 32), 1, 192, where="blk")


def test_i2_s_has_the_size_of_the_type_table():
    assert len(i2_s.encode(random_ternary(0, 6, 640))) == BY_NAME["I2_S"].size_bytes(6 * 640)


@pytest.mark.parametrize(("linear_class", "stored"), [("autobitlinear", 0.25), ("bitlinear", 4.0)])
def test_packed_rows_are_strided_and_the_scale_means_what_its_class_says(linear_class, stored):
    codes = np.arange(8 * 3, dtype=np.uint8).reshape(8, 3) % 3
    raw, scale = packed.encode(Ternary(codes, np.asarray(np.float32(0.25))), linear_class=linear_class)

    assert scale == stored
    assert raw[0] == codes[0, 0] | codes[2, 0] << 2 | codes[4, 0] << 4 | codes[6, 0] << 6
    found = packed.decode(raw, 8, 3, weight_scale=stored, linear_class=linear_class)
    same(found, Ternary(codes, np.asarray(np.float32(0.25))))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("group", [0, 64, 128, 512])
def test_weights_that_are_ternary_already_are_found_exactly(dtype, group):
    ternary = random_ternary(group, 4, 512, group=group)
    exact = Ternary(ternary.codes, np.float32(np.round(ternary.scales * 8) / 8 + 0.125), group)
    raw = master.encode(exact, dtype=dtype)

    found = master.decode(raw, 4, 512, dtype=dtype, trained=False)
    same(found, exact)
    assert found.group == group


def test_master_weights_are_quantized_as_in_training():
    values = np.array([[0.3, -0.9, 0.1, -0.1], [2.0, 0.0, -0.45, 0.5]], np.float32)
    mean = np.float32(np.abs(values).mean(dtype=np.float64))
    found = master.decode(floats.encode(values, "F32"), 2, 4, dtype="F32", trained=True)

    assert found.scales == mean
    np.testing.assert_array_equal(found.codes.astype(int) - 1, [[1, -1, 0, 0], [1, 0, -1, 1]])


def test_a_tensor_of_zeros_has_a_scale_that_is_no_zero_divided():
    assert (master.quantize(np.zeros((2, 64), np.float32), trained=True).codes == 1).all()
    same(
        master.decode(bytes(512), 2, 64, dtype="F32", trained=False),
        Ternary(np.ones((2, 64), np.uint8), np.zeros((), np.float32)),
    )


def test_weights_that_are_not_ternary_are_refused_unless_trained_to_be():
    raw = floats.encode(np.linspace(-1, 1, 256, dtype=np.float32), "F32")

    with refuses(UnsupportedArtifact):
        master.decode(raw, 1, 256, dtype="F32", trained=False, where="blk")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_master_weights_that_are_no_numbers_are_refused(value):
    raw = floats.encode(np.array([0, value, 0, 0], np.float32), "F32")

    with refuses(BadArtifact):
        master.decode(raw, 1, 4, dtype="F32", trained=True, where="blk")


def test_bfloat16_rounds_to_even_and_keeps_nan():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-9), np.inf, np.nan], np.float32)
    back = floats.decode(floats.encode(values, "BF16"), 6, "BF16")

    np.testing.assert_array_equal(back, [1, 1, 1 + 2**-6, -1, np.inf, np.nan])


CODE_3 = {
    "i2_s": (lambda raw: i2_s.decode(raw, 2, 128, where="blk"), lambda: i2_s.encode(random_ternary(0, 2, 128)), 37),
    "tq2_0": (
        lambda raw: tq2_0.decode(raw, 1, 512, where="blk"),
        lambda: tq2_0.encode(random_ternary(0, 1, 512)),
        66 + 5,
    ),
    "q2_0": (lambda raw: q2_0.decode(raw, 1, 128, where="blk"), lambda: q2_0.encode(random_ternary(0, 1, 128)), 18 + 3),
    "packed": (
        lambda raw: packed.decode(raw, 8, 32, weight_scale=1, linear_class="bitlinear", where="blk"),
        lambda: packed.encode(random_ternary(0, 8, 32), linear_class="bitlinear")[0],
        41,
    ),
}


@pytest.mark.parametrize("name", CODE_3)
@pytest.mark.parametrize("lane", range(4))
def test_code_3_is_refused_with_its_byte(name, lane):
    decode, encode, at = CODE_3[name]
    raw = bytearray(encode())
    raw[at] |= 3 << 2 * lane

    with refuses(BadArtifact):
        decode(bytes(raw))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_scales_that_are_none_are_refused(value):
    one = random_ternary(0, 1, 256)
    bad = np.float16(value).tobytes()
    raw = {name: codec.encode(random_ternary(0, 1, 256, zeros=False)) for name, codec in BLOCK_CODECS.items()}
    files = {
        "Q1_0": bad + raw["Q1_0"][2:], "Q2_0": bad + raw["Q2_0"][2:],
        "TQ1_0": raw["TQ1_0"][:52] + bad, "TQ2_0": raw["TQ2_0"][:64] + bad,
    }  # fmt: skip
    for name, content in files.items():
        with refuses(BadArtifact):
            BLOCK_CODECS[name].decode(content, 1, 256, where="blk")
    plain = i2_s.encode(one)
    with refuses(BadArtifact):
        i2_s.decode(plain[:64] + np.float32(value).tobytes() + plain[68:], 1, 256, where="blk")
    with refuses(BadArtifact):
        packed.decode(bytes(64), 4, 64, weight_scale=value, linear_class="autobitlinear", where="blk")


def test_a_scale_to_divide_by_may_not_be_zero():
    with refuses(BadArtifact):
        packed.decode(bytes(64), 4, 64, weight_scale=0, linear_class="bitlinear", where="blk")


LENGTHS = {
    "TQ1_0": lambda raw: tq1_0.decode(raw, 1, 256, where="blk"),
    "TQ2_0": lambda raw: tq2_0.decode(raw, 1, 256, where="blk"),
    "Q2_0": lambda raw: q2_0.decode(raw, 1, 64, where="blk"),
    "Q1_0": lambda raw: q1_0.decode(raw, 1, 128, where="blk"),
    "I2_S": lambda raw: i2_s.decode(raw, 1, 128, where="blk"),
    "packed": lambda raw: packed.decode(raw, 4, 66, weight_scale=1, linear_class="bitlinear", where="blk"),
    "F32": lambda raw: master.decode(raw, 1, 10, dtype="F32", trained=True, where="blk"),
}


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("n_bytes", [0, 1, 17, 41, 1000])
def test_a_wrong_length_is_refused(name, n_bytes):
    with refuses(BadArtifact):
        LENGTHS[name](bytes(n_bytes))


@pytest.mark.parametrize("shape", [(0, 256), (256, 0), (0, 0)])
def test_a_matrix_without_weights_is_refused(shape):
    rows, cols = shape
    for codec in BLOCK_CODECS.values():
        with refuses(BadArtifact):
            codec.decode(b"", rows, cols, where="blk")
    with refuses(BadArtifact):
        master.decode(b"", rows, cols, dtype="F32", trained=True, where="blk")
    with refuses(BadArtifact):
        i2_s.decode(bytes(32), rows, cols, where="blk")
    with refuses(BadArtifact):
        packed.decode(b"", rows, cols, weight_scale=1, linear_class="bitlinear", where="blk")


@pytest.mark.parametrize("name", BLOCK_CODECS)
def test_rows_that_are_no_whole_blocks_are_refused(name):
    cols = BLOCK_CODECS[name].BLOCK + 4
    with refuses(BadArtifact):
        BLOCK_CODECS[name].decode(b"", 2, cols, where="blk")
    with refuses(UnsupportedArtifact):
        BLOCK_CODECS[name].encode(random_ternary(0, 2, cols, zeros=False), where="blk")


def test_several_scales_do_not_go_into_one():
    several = random_ternary(3, 2, 256, group=64)
    with refuses(UnsupportedArtifact):
        i2_s.encode(several, where="blk")
    with refuses(UnsupportedArtifact):
        tq2_0.encode(several, where="blk")


def test_blocks_of_zeros_do_not_count_as_another_scale():
    codes = np.random.default_rng(5).integers(0, 3, (2, 512), np.uint8)
    codes[0, 64:128] = 1
    scales = np.full((2, 8), 0.5, np.float32)
    scales[0, 1] = 0  # as ggml writes a block of zeros
    ternary = Ternary(codes, scales, 64)

    for codec in (i2_s, tq2_0):
        same(codec.decode(codec.encode(ternary), 2, 512), ternary)


def test_equal_block_scales_go_into_one_and_back():
    one = random_ternary(9, 3, 512)
    blocks = tq1_0.decode(tq1_0.encode(one), 3, 512)

    assert i2_s.encode(blocks) == i2_s.encode(one)


def test_q1_0_has_no_zero():
    with refuses(UnsupportedArtifact):
        q1_0.encode(random_ternary(0, 1, 128), where="blk")


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_a_scale_that_float16_cannot_hold_is_refused(scale):
    ternary = Ternary(np.zeros((1, 256), np.uint8), np.asarray(np.float32(scale)))
    with refuses(UnsupportedArtifact):
        tq2_0.encode(ternary, where="blk")


def test_a_ternary_matrix_checks_itself():
    codes, scale = np.zeros((2, 64), np.uint8), np.ones((), np.float32)
    for wrong in (
        lambda: Ternary(codes + np.uint8(3), scale),
        lambda: Ternary(codes, scale * np.float32(np.nan)),
        lambda: Ternary(codes, np.ones((2, 2), np.float32), 64),
        lambda: Ternary(codes, np.ones((2, 1), np.float32), 48),
        lambda: Ternary(codes.astype(np.int32), scale),
    ):
        with pytest.raises(ValueError):
            wrong()
