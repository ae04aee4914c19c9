"""The type table against facts that are easy to know."""

import pytest

from edgellm.formats.gguf.ggml_types import BY_NAME, FILE_TYPES, REMOVED, TYPES


@pytest.mark.parametrize(
    ("name", "bits"),
    [("F32", 32), ("BF16", 16), ("Q8_0", 8.5), ("Q6_K", 6.5625), ("Q5_K", 5.5), ("Q4_K", 4.5), ("IQ4_XS", 4.25),
     ("Q3_K", 3.4375), ("Q2_K", 2.625), ("TQ1_0", 1.6875), ("MXFP4", 4.25), ("Q1_0", 1.125), ("TQ2_0", 2.0625),
     ("Q2_0", 2.25), ("I2_S", 2.25)],  # 1024 weights: 32 bytes of scale weigh a quarter of a bit
)  # fmt: skip
def test_bits_per_weight(name, bits):
    assert BY_NAME[name].size_bytes(1024) * 8 / 1024 == bits


def test_names_and_ids_are_one_to_one():
    assert len(BY_NAME) == len(TYPES)
    assert not REMOVED.keys() & TYPES.keys()
    assert len(set(FILE_TYPES.values())) == len(FILE_TYPES)
