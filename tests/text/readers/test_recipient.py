"""Functionary 3.2: messages that begin with whom they are for."""

from tests.support.reading import everyway, of_template

FUNCTIONARY = of_template(">>>all", "<|start_header_id|>assistant<|end_header_id|>\n\n>>>")


def test_text_is_for_all_and_a_call_for_its_tool():
    assert everyway(FUNCTIONARY, 'all\nI look:\n>>> 1\n>>>weather\n{"days": 1}>>>ping\n{}') == [
        ("text", "I look:\n>>> 1"),
        ("call_name", "weather", 0),
        ("call_arguments", '{"days": 1}', 0),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
    ]


def test_text_that_the_prompt_began_goes_on():
    assert everyway(of_template(">>>all", ">>>all\nFor"), "all\n{}") == [("text", "all\n{}")]


def test_a_call_may_come_first_and_a_name_that_was_not_offered_is_text():
    assert everyway(FUNCTIONARY, "ping\n{}")[0] == ("call_name", "ping", 0)
    assert everyway(FUNCTIONARY, "walk\n{}") == [("text", "walk\n{}")]
