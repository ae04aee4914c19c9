"""Thoughts and text, told apart as they come."""

import pytest

from edgellm.text.readers import Part, reader_of
from edgellm.types.markup import AnswerMarkup, Markup, Reading, ReasoningMarkup

THINK = Markup(ReasoningMarkup("<think>", "</think>"))


def read(reading, *pieces):
    reader = reader_of(reading)
    return joined([part for piece in pieces for part in reader.push(piece)] + reader.finish())


def joined(parts):
    whole = []
    for part in parts:
        if whole and part.kind != "call_name" and (whole[-1].kind, whole[-1].call) == (part.kind, part.call):
            whole[-1] = whole[-1]._replace(text=whole[-1].text + part.text)
        else:
            whole.append(part)
    return whole


def everyway(reading, text):
    """Read whole, by characters, and cut once at each place: all the same."""
    parts = read(reading, text)
    assert read(reading, *text) == parts
    for i in range(1, len(text)):
        assert read(reading, text[:i], text[i:]) == parts, f"cut at {i}"
    return parts


def test_an_answer_of_a_model_without_markers_is_text_as_it_is():
    assert everyway(Reading(Markup()), "\n <think>a</think> b \n") == [Part("text", "\n <think>a</think> b \n")]


@pytest.mark.parametrize("opened", ["<think>\n", "<|assistant|><think>", "<think></think><think>"])
def test_a_thought_that_the_prompt_opened_ends_at_its_marker(opened):
    parts = everyway(Reading(THINK, opened), "I think\n</think>\n\nYes\n")
    assert parts == [Part("reasoning", "I think"), Part("text", "Yes\n")]


def test_a_thought_that_the_prompt_closed_is_over():
    assert everyway(Reading(THINK, "<think>\n\n</think>\n\n"), "a</think>") == [Part("text", "a</think>")]


def test_a_model_may_open_a_thought_itself_but_not_in_the_middle_of_its_answer():
    parts = everyway(Reading(THINK), "\n<think>\nhm <b> </thin </think>\nA <think>b</think>")
    assert parts == [Part("reasoning", "hm <b> </thin"), Part("text", "A <think>b</think>")]


def test_a_thought_that_never_ends_is_a_thought():
    assert everyway(Reading(THINK), "<think>a </thi") == [Part("reasoning", "a </thi")]


def test_what_stands_around_the_answer_is_left_out():
    markup = Markup(THINK.reasoning, answer=AnswerMarkup("<response>", "</response>"))
    parts = everyway(Reading(markup), "<think>a</think><response>b</response>")
    assert parts == [Part("reasoning", "a"), Part("text", "b")]


def test_thinking_says_what_comes_now():
    reader = reader_of(Reading(THINK, "<think>"))
    assert reader.thinking
    reader.push("a</thi")
    assert reader.thinking
    reader.push("nk>")
    assert not reader.thinking


def test_text_is_told_before_the_answer_ends():
    reader = reader_of(Reading(THINK))
    assert reader.push("Hello \n") == [Part("text", "Hello \n")]
    assert reader.push("a<th") == [Part("text", "a")]
    assert reader.push("e") == [Part("text", "<the")]


def test_control_tokens_that_a_marker_is_made_of_are_shown():
    markup = Markup(ReasoningMarkup("<|channel|>thought\n", "<|end|>"))
    assert markup.markers == {"<|channel|>thought", "<|end|>"}
    assert markup.shows("<|channel|>")
    assert not markup.shows("<|im_end|>")
    assert not markup.shows("")


def test_white_space_behind_a_thought_that_the_prompt_began_counts():
    assert everyway(Reading(THINK, "<think>\nI am"), " here</think> A")[0] == Part("reasoning", " here")
