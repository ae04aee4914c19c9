"""Thoughts and text, told apart as they come."""

import pytest
from support.reading import everyway

from edgellm.text.readers import Part, reader_of
from edgellm.types.markup import AnswerMarkup, Markup, Reading, ReasoningMarkup

THINK = Markup(ReasoningMarkup("<think>", "</think>"))


def parts_of(reading, text):
    return [Part(*part) for part in everyway(reading, text)]


def test_an_answer_of_a_model_without_markers_is_text_as_it_is():
    assert parts_of(Reading(Markup()), "\n <think>a</think> b \n") == [Part("text", "\n <think>a</think> b \n")]


@pytest.mark.parametrize("opened", ["<think>\n", "<|assistant|><think>", "<think></think><think>"])
def test_a_thought_that_the_prompt_opened_ends_at_its_marker(opened):
    parts = parts_of(Reading(THINK, opened), "I think\n</think>\n\nYes\n")
    assert parts == [Part("reasoning", "I think"), Part("text", "Yes\n")]


def test_a_thought_that_the_prompt_closed_is_over():
    assert parts_of(Reading(THINK, "<think>\n\n</think>\n\n"), "a</think>") == [Part("text", "a</think>")]


def test_a_model_may_open_a_thought_itself_but_not_in_the_middle_of_its_answer():
    parts = parts_of(Reading(THINK), "\n<think>\nhm <b> </thin </think>\nA <think>b</think>")
    assert parts == [Part("reasoning", "hm <b> </thin"), Part("text", "A <think>b</think>")]


def test_a_thought_that_never_ends_is_a_thought():
    assert parts_of(Reading(THINK), "<think>a </thi") == [Part("reasoning", "a </thi")]


def test_what_stands_around_the_answer_is_left_out():
    markup = Markup(THINK.reasoning, answer=AnswerMarkup("<response>", "</response>"))
    parts = parts_of(Reading(markup), "<think>a</think><response>b</response>")
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
    assert parts_of(Reading(THINK, "<think>\nI am"), " here</think> A")[0] == Part("reasoning", " here")
