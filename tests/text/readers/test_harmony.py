"""gpt-oss: messages with a header."""

import pytest

from tests.support.reading import everyway, of_template, read

SIGNS = "<|channel|><|message|>"
START = "<|start|>assistant"
HARMONY = of_template(SIGNS, START)
JAPANESE = of_template("chat_format=llm-jp-harmony-v1", START)
PLACE = '{"city": "Ulm"}'


def test_the_channel_says_what_a_message_is():
    text = "<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
    assert everyway(HARMONY, text) == [("reasoning", "Hm."), ("text", "Yes.")]


@pytest.mark.parametrize(
    "header",
    [
        " to=functions.weather<|channel|>commentary json<|message|>",
        "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>",
        "<|channel|>analysis to=functions.weather<|message|>",
        "<|channel|>commentary to=weather<|message|>",
    ],
)
def test_a_recipient_in_either_place_is_a_call(header):
    assert everyway(HARMONY, header + PLACE + "<|call|>") == [
        ("call_name", "weather", 0),
        ("call_arguments", PLACE, 0),
    ]


def test_calls_come_behind_thoughts_and_preambles_and_each_other():
    text = (
        "<|channel|>analysis<|message|>Two.<|end|>"
        f"{START}<|channel|>commentary<|message|>I look.<|end|>"
        f"{START}<|channel|>commentary to=functions.weather<|message|>{PLACE}<|end|>"
        f"{START} to=functions.ping<|channel|>commentary<|message|>"
    )
    assert everyway(HARMONY, text) == [
        ("reasoning", "Two."),
        ("text", "I look."),
        ("call_name", "weather", 0),
        ("call_arguments", PLACE, 0),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
    ]


def test_a_tool_of_its_training_that_nobody_offered_is_not_called():
    text = "<|channel|>commentary to=python<|message|>1 + 1<|call|>"
    assert everyway(HARMONY, text) == []
    assert everyway(HARMONY, text.replace("python", "functions.walk")) == []


def test_a_prompt_that_ends_with_a_role_leaves_the_recipient_to_the_answer():
    reading = of_template(SIGNS, f"<|start|>user<|message|>a<|end|>{START}")
    assert everyway(reading, f" to=functions.weather<|channel|>commentary<|message|>{PLACE}") == [
        ("call_name", "weather", 0),
        ("call_arguments", PLACE, 0),
    ]


def test_a_header_that_begins_again_counts_from_there():
    text = "<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm<|end|>"
    assert everyway(HARMONY, text) == [("reasoning", "Hm")]


def test_a_message_that_the_prompt_began_goes_on():
    reading = of_template(SIGNS, f"<|start|>user<|message|>a<|end|>{START}<|channel|>analysis<|message|>I")
    assert everyway(reading, " am<|end|>" + START + "<|channel|>final<|message|>b") == [
        ("reasoning", " am"),
        ("text", "b"),
    ]


def test_text_without_a_message_is_text_and_soon():
    assert everyway(HARMONY, "Yes, plainly.") == [("text", "Yes, plainly.")]
    assert read(HARMONY, "a" * 400)[0].text == "a" * 400


def test_one_dialect_has_a_space_behind_each_marker():
    text = "<|channel|> analysis<|message|> Hm<|end|><|start|> assistant<|channel|> final<|message|>  Yes"
    assert everyway(JAPANESE, text) == [("reasoning", "Hm"), ("text", "Yes")]
    text = f"<|channel|> commentary to=functions.weather <|constrain|>  json<|message|> {PLACE}"
    assert everyway(JAPANESE, text)[1] == ("call_arguments", PLACE, 0)


MUSE = of_template("<atem:function_calls><|eom|>", START)
INVOKE = (
    '<atem:function_calls>\n<atem:invoke name="weather">\n<atem:parameter name="city">5</atem:parameter>\n'
    '<atem:parameter name="days">5</atem:parameter>\n</atem:invoke>\n</atem:function_calls>'
)


def test_muse_says_by_the_recipient_what_a_message_is_and_marks_arguments():
    text = (
        f" to=self<|message|>Not {INVOKE}.<|eom|>{START} to=user<|message|>I look.<|eom|>"
        f"{START} to=weather<|message|>{INVOKE}<|eot|>"
    )
    assert everyway(MUSE, text) == [
        ("reasoning", f"Not {INVOKE}."),
        ("text", "I look."),
        ("call_name", "weather", 0),
        ("call_arguments", '{"city": "5", "days": 5}', 0),
    ]


def test_markup_of_a_call_that_muse_tells_the_user_is_text():
    assert everyway(MUSE, f" to=user<|message|>So: {INVOKE}<|eot|>") == [("text", f"So: {INVOKE}")]
