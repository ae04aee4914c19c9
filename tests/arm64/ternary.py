"""The trained ternary model on an emulated Arm core; its file has the official order of I2_S codes. Run by run.sh."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from bitnet.models import engine_over
from bitnet.packed import library, usable
from edgellm_bitnet.codecs import i2_s
from edgellm_bitnet.models import TINY_TERNARY
from edgellm_bitnet.weights import GgufWeights

from edgellm.contract.engine import SlotInput
from edgellm.formats.tokenizer import from_gguf

PROMPT = "Once upon a time there was a king who"
STORY = (  # on x86-64, all instruction sets
    " lives in the bag, and a great big jungle of white caps and took hold of one end of the big trees and drove them."
    '\n\n"Who is there?" she said.\n\n"'
)


def model():
    return GgufWeights(TINY_TERNARY.files[0].source.removeprefix("file:"))


def test_this_is_arm():
    assert platform.machine() == "aarch64"


@pytest.mark.parametrize("isa", usable())
def test_the_official_layout_is_decoded_and_tells_the_same_story(isa):
    weights = model()
    tokenizer = from_gguf.read_tokenizer(weights.model.header)
    step, told, n = tuple(tokenizer.encode(PROMPT, add_special=True, parse_special=False)), [], 0
    with engine_over(weights, isa=isa) as engine:
        for key, role in (("0.output", "blk.0.attn_output.weight"), ("5.down", "blk.5.ffn_down.weight")):
            raw, packed = weights.matrix(role), engine._loaded.arena.matrix(engine._loaded.layout.slabs[key])
            assert raw.type == "I2_S"
            found = np.zeros((raw.rows, raw.cols), np.float32)
            for row in range(raw.rows):
                library().bn_row(packed, row, found[row].ctypes.data)
            np.testing.assert_array_equal(found, i2_s.decode(raw.data, raw.rows, raw.cols).dense())
        for _ in range(48):
            logits = engine.step([SlotInput(0, n, step, 1)])[0][-1]
            n += len(step)
            told.append(int(logits.argmax()))
            step = (told[-1],)
    assert b"".join(tokenizer.token_bytes(token) for token in told).decode() == STORY
