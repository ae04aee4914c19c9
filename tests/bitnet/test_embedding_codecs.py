"""Types for embeddings and heads: as ggml quantizes them, or no worse."""

import numpy as np
import pytest
from bitnet import ggml
from edgellm_bitnet.codecs import q6_k, q8_0


def table(seed, scale=0.05):
    values = np.random.default_rng(seed).standard_normal((16, 1024)).astype(np.float32) * np.float32(scale)
    values[3] = 0
    values[4, :64] = 0
    values[5, 7] = 3  # an outlier
    return values


@pytest.mark.parametrize("scale", [1e-3, 0.05, 10])
def test_q8_0_is_ggmls_bit_for_bit(scale):
    assert q8_0.encode(table(1, scale)) == ggml.quantize("Q8_0", table(1, scale))


@pytest.mark.parametrize("scale", [1e-3, 0.05, 10])
def test_q6_k_is_as_near_as_ggmls(scale):
    values = table(2, scale)
    ours = ggml.dequantize("Q6_K", q6_k.encode(values), *values.shape)
    theirs = ggml.dequantize("Q6_K", ggml.quantize("Q6_K", values), *values.shape)

    assert (ours[3] == 0).all()
    assert np.square(ours - values).sum() <= 1.002 * np.square(theirs - values).sum()
    assert np.abs(ours - values).max() < np.abs(values).max() / 24


@pytest.mark.parametrize(("name", "codec"), [("Q8_0", q8_0), ("Q6_K", q6_k)])
def test_decoded_is_what_ggml_decodes(name, codec):
    raw = codec.encode(table(3))

    np.testing.assert_array_equal(codec.decode(raw).reshape(16, 1024), ggml.dequantize(name, raw, 16, 1024))
