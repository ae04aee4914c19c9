"""Families that are known by signs in their templates."""

import msgspec
import pytest

from edgellm.text.known_markup import FAMILIES, known_markup
from edgellm.types.markup import LiteralCalls, Reading

ids = {"ids": lambda family: " ".join(family.signs)[:40]}


@pytest.mark.parametrize("family", FAMILIES, **ids)
def test_a_family_is_known_by_all_of_its_signs_and_crosses_the_wire(family):
    markup = known_markup(" ".join(family.signs))
    assert markup == family.markup
    reading = Reading(markup)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(reading), type=Reading) == reading


def test_a_template_without_signs_is_of_no_known_family():
    assert known_markup("{{ messages }}<|im_start|>List of tools") is None


def test_marks_of_control_tokens_are_shown_to_readers():
    gemma = known_markup("<|tool_call>call:")
    assert isinstance(gemma.calls, LiteralCalls)
    assert all(gemma.shows(token) for token in ("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"))
    assert not gemma.shows("<turn|>")
    harmony = known_markup("<|channel|><|message|>")
    assert all(harmony.shows(f"<|{name}|>") for name in ("channel", "message", "start", "end", "constrain", "call"))
    assert not harmony.shows("<|endoftext|>")
