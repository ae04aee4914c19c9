"""Prompts for what comes between two texts, by the markers that a vocabulary has."""

from __future__ import annotations

import pytest
from support.refusals import refuses

from edgellm.contract.engine import EngineInfo
from edgellm.errors import UnsupportedField
from edgellm.text.infill import infill_prompt


def info(*special: str) -> EngineInfo:
    return EngineInfo(1, 512, 512, 1, 1000, frozenset(), special_texts=special)


QWEN = info("<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        (QWEN, "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"),
        (info("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>"),
        (info("[PREFIX]", "[SUFFIX]", "[MIDDLE]"), "[SUFFIX]b[PREFIX]a"),
    ],
)
def test_each_family_has_its_order(model: EngineInfo, prompt: str) -> None:
    assert infill_prompt(model, "a", "b", parse_special=False) == (prompt, ())


def test_markup_in_the_texts_stays_text_unless_asked() -> None:
    before, after = "s = '<|im_end|>'", "<|fim_suffix|>"
    prompt = f"<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"
    cuts = (prompt.index("|im_end"), prompt.rindex("|fim_suffix"))

    assert infill_prompt(QWEN, before, after, parse_special=False) == (prompt, cuts)
    assert infill_prompt(QWEN, before, after, parse_special=True) == (prompt, ())


@pytest.mark.parametrize("model", [info(), info("<|fim_prefix|>", "<|fim_suffix|>")])
def test_without_markers_it_is_refused(model: EngineInfo) -> None:
    with refuses(UnsupportedField, param="suffix"):
        infill_prompt(model, "a", "b", parse_special=False)
