"""Prompts for what comes between two texts (FIM), for models that were trained for it.

The markers are those of the families' own cards: Qwen2.5-Coder and CodeGemma, StarCoder and Granite, DeepSeek-Coder,
Code Llama, CodeGeeX4 and GLM, Seed-Coder, Codestral.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgellm.errors import UnsupportedField
from edgellm.text.cuts import Marker, SpecialTexts

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo


class InfillMarkup(NamedTuple):
    """Texts of control tokens. `middle` is empty where the answer follows the text before it."""

    prefix: str
    suffix: str
    middle: str = ""
    suffix_first: bool = False

    def prompt(self, before: str, after: str) -> str:
        if self.suffix_first:
            return f"{self.suffix}{after}{self.prefix}{before}{self.middle}"
        return f"{self.prefix}{before}{self.suffix}{after}{self.middle}"


FAMILIES = (
    InfillMarkup("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    InfillMarkup("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    InfillMarkup("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    InfillMarkup("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    InfillMarkup("▁<PRE>", "▁<SUF>", "▁<MID>"),
    InfillMarkup("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    InfillMarkup("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),
    InfillMarkup("[PREFIX]", "[SUFFIX]", suffix_first=True),
)


def fills_in(info: EngineInfo) -> bool:
    """Whether the model has markers for it."""
    return _family(info) is not None


def infill_prompt(
    info: EngineInfo, before: str, after: str, *, parse_special: bool, without: str = "leave out suffix"
) -> tuple[str, tuple[int, ...]]:
    """The prompt, and its cuts (`GenerationRequest.cuts`).

    Args:
        parse_special: markup in the two texts is markup.
        without: what else can be done where the model does not fill in.

    Raises:
        UnsupportedField: the model has no markers for it.
    """
    family = _family(info)
    if family is None:
        what = "this model does not fill in: its vocabulary has no markers for it"
        raise UnsupportedField(what, hint=f"{without}, or serve a code model", param="suffix")
    if parse_special:
        return family.prompt(before, after), ()
    marker = Marker(SpecialTexts(info), (before, after))
    return marker.unmark(family.prompt(marker.mark(before), marker.mark(after)))


def _family(info: EngineInfo) -> InfillMarkup | None:
    special = {*info.special_texts}
    return next((row for row in FAMILIES if {*row[:3]} - {""} <= special), None)
