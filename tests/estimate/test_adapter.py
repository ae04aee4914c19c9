"""Bytes of a LoRA that does not exist yet."""

from __future__ import annotations

from dataclasses import replace

from edgellm.catalog.lookup import catalog
from edgellm.estimate.adapter import lora_bytes


def test_a_lora_of_rank_16_has_the_parameters_that_peft_counts() -> None:
    shape = catalog()["llama-3.2-1b-instruct"].shape
    assert shape is not None

    # 16 layers of 4096 + 2560 + 2560 + 4096 + 3 * 10240 numbers for each rank.
    assert lora_bytes(shape, 16) == 11_272_192 * 4
    assert lora_bytes(shape, 32, element_bytes=2) == 11_272_192 * 4
    assert lora_bytes(shape, 8, frozenset({"attn_q", "attn_v"})) == 16 * 8 * (4096 + 2560) * 4
    assert lora_bytes(replace(shape, arch="not-known"), 16) is None
