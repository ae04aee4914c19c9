"""Blocks as MatMulNBits reads them: carried over bit for bit, or quantized with little error."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from bitnet import ggml
from edgellm_onnx import convert_blocks
from edgellm_onnx.convert_blocks import BLOCK, Blocks
from onnx import TensorProto, helper, numpy_helper

from edgellm.formats.gguf.ggml_types import BY_NAME

ROWS, COLS = 12, 160  # five blocks: zero points end in a half byte


def raw_of(kind, values):
    return np.frombuffer(ggml.quantize(kind, values), np.uint8).reshape(len(values), -1)


def weights(seed=0):
    """Normal ones, a block of zeros, one of one sign, one whose scale is subnormal in half precision."""
    values = np.random.default_rng(seed).normal(0, 0.05, (ROWS, COLS)).astype(np.float32)
    values[0, :BLOCK] = 0
    values[1, :BLOCK] = np.abs(values[1, :BLOCK]) + 0.1
    values[2, :BLOCK] *= 1e-5
    return values


def multiplied(blocks, bits, value, *, zeros):
    """`value` times the blocks, by the operator itself with float activations."""
    made = {
        "w": blocks.packed.reshape(len(blocks.packed), -1, BLOCK * bits // 8), "s": blocks.scales,
        "z": convert_blocks.pack_zeros(blocks.zeros, bits),
    }  # fmt: skip
    names = ["w", "s", "z"][: 3 if zeros else 2]
    node = helper.make_node(
        "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", K=value.shape[1], N=len(blocks.packed), bits=bits,
        block_size=BLOCK, accuracy_level=1,
    )  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(made[n], n) for n in names])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": value})[0]


@pytest.mark.parametrize(("kind", "bits"), sorted(convert_blocks.EXACT))
def test_carried_blocks_are_the_files_bit_for_bit(kind, bits):
    raw = raw_of(kind, weights())

    blocks = convert_blocks.carry(raw, kind, bits)

    np.testing.assert_array_equal(convert_blocks.dequantize(blocks, bits), ggml.dequantize(kind, raw, ROWS, COLS))
    assert set(blocks.zeros.reshape(-1)) == {1 << (bits - 1)}  # what the operator takes where none are given


@pytest.mark.parametrize(("kind", "bits"), sorted(convert_blocks.EXACT))
def test_every_pattern_of_a_block_is_carried(kind, bits):
    """Random bytes, so codes that quantizers never write and negative scales are there too."""
    raw = np.random.default_rng(1).integers(0, 256, (300, BY_NAME[kind].block_bytes), dtype=np.uint8)
    raw[:, 1] = raw[:, 1] & 0xBF  # no infinite scales

    blocks = convert_blocks.carry(raw, kind, bits)

    np.testing.assert_array_equal(
        convert_blocks.dequantize(blocks, bits), ggml.dequantize(kind, raw, len(raw), BLOCK), strict=True
    )


@pytest.mark.parametrize(("kind", "bits"), sorted(convert_blocks.EXACT))
def test_the_operator_reads_carried_blocks_as_they_are_meant(kind, bits):
    raw = raw_of(kind, weights())
    identity = np.eye(COLS, dtype=np.float32)

    got = multiplied(convert_blocks.carry(raw, kind, bits), bits, identity, zeros=False)

    np.testing.assert_allclose(got.T, ggml.dequantize(kind, raw, ROWS, COLS), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_operator_reads_new_blocks_as_they_are_meant(bits):
    blocks = convert_blocks.quantize(weights(), bits)

    got = multiplied(blocks, bits, np.eye(COLS, dtype=np.float32), zeros=bits == 4)

    np.testing.assert_allclose(got.T, convert_blocks.dequantize(blocks, bits), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.006), (4, 0.078)])
def test_new_blocks_are_near(bits, most):
    """4 bits: below Q4_0's 0.09 of normal weights, because zero points and scales are searched."""
    values = np.random.default_rng(2).normal(0, 0.05, (256, 256)).astype(np.float32)

    error = convert_blocks.dequantize(convert_blocks.quantize(values, bits), bits) - values

    assert np.linalg.norm(error) / np.linalg.norm(values) < most
    q4_0 = ggml.dequantize("Q4_0", raw_of("Q4_0", values), 256, 256) - values
    assert np.linalg.norm(error) < np.linalg.norm(q4_0)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_zeros_and_of_one_sign(bits):
    values = weights()

    back = convert_blocks.dequantize(convert_blocks.quantize(values, bits), bits)

    assert not back[0, :BLOCK].any()
    largest = values[1, :BLOCK].max()
    np.testing.assert_allclose(back[1, :BLOCK], values[1, :BLOCK], rtol=0, atol=largest / (30 if bits == 4 else 250))
    np.testing.assert_allclose(back[2, :BLOCK], values[2, :BLOCK], rtol=0, atol=np.abs(values[2, :BLOCK]).max() / 10)


def test_zero_points_are_two_in_a_byte_the_first_below():
    blocks = Blocks(np.zeros((1, 48), np.uint8), np.ones((1, 3), np.float32), np.array([[1, 2, 15]], np.uint8))

    np.testing.assert_array_equal(convert_blocks.pack_zeros(blocks.zeros, 4), [[0x21, 0x0F]])
    np.testing.assert_array_equal(convert_blocks.pack_zeros(blocks.zeros, 8), [[1, 2, 15]])
