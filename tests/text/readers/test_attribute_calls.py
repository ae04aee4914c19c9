"""DSML, Kimi K3, MiniCPM5: tags with attributes."""

from tests.support.reading import everyway, of_template

V3_2 = of_template("DSML function_calls", "<think>")
V4 = of_template("DSML tool_calls", "</think>")
K3 = of_template("<|open|><|close|><|end_of_msg|>", "<|open|>think<|sep|>")
MINICPM5 = of_template('<function name="<param name="', "<think>\n\n</think>\n\n")


def dsml(section, *calls):
    return f"<｜DSML｜{section}>\n" + "\n".join(calls) + f"\n</｜DSML｜{section}>"


def invoke(name, *parameters):
    inner = "".join(
        f'<｜DSML｜parameter name="{key}" string="{is_text}">{value}</｜DSML｜parameter>\n'
        for key, is_text, value in parameters
    )
    return f'<｜DSML｜invoke name="{name}">\n{inner}</｜DSML｜invoke>'


def test_dsml_says_of_each_value_whether_it_is_a_text():
    call = invoke("weather", ("city", "true", '5 "a" </b>\n'), ("days", "false", " 5 "), ("tags", "false", '["x"]'))
    assert everyway(V3_2, "Hm</think>\n\n" + dsml("function_calls", call)) == [
        ("reasoning", "Hm"),
        ("call_name", "weather", 0),
        ("call_arguments", '{"city": "5 \\"a\\" </b>\\n", "days": 5, "tags": ["x"]}', 0),
    ]


def test_calls_of_one_section_and_text_around_it():
    text = "I look.\n\n" + dsml("tool_calls", invoke("ping"), invoke("ping")) + "\nDone"
    assert everyway(V4, text) == [
        ("text", "I look."),
        ("call_name", "ping", 0),
        ("call_arguments", "{}", 0),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
        ("text", "Done"),
    ]


def test_a_call_ends_a_thought_of_deepseek():
    text = "Hm\n\n" + dsml("function_calls", invoke("ping"))
    assert [part[0] for part in everyway(V3_2, text)] == ["reasoning", "call_name", "call_arguments"]


def test_a_call_that_was_cut_is_not_whole():
    text = dsml("tool_calls", invoke("weather", ("city", "true", "Ulm")))
    cut = text[: text.index("Ulm") + 2]
    assert everyway(V4, cut) == [("call_name", "weather", 0), ("call_arguments", '{"city": "Ul', 0)]


def test_a_call_is_whole_once_its_tag_is_closed():
    text = dsml("tool_calls", invoke("weather", ("city", "true", "Ulm")))
    assert everyway(V4, text[: text.index("</｜DSML｜invoke>")])[1][1] == '{"city": "Ulm"'


def test_a_section_without_a_call_is_text():
    text = '<｜DSML｜tool_calls>as in <｜DSML｜invoke name="ping">'
    assert everyway(V4, text) == [("text", text)]
    assert everyway(V4, "<｜DSML｜tool_calls> is a tag") == [("text", "<｜DSML｜tool_calls> is a tag")]


def test_kimi_has_sections_for_thought_answer_and_tools():
    text = (
        "Hm<|close|>think<|sep|><|open|>response<|sep|>I look.<|close|>response<|sep|><|open|>tools<|sep|>"
        '<|open|>call tool="weather" index="1"<|sep|>'
        '<|open|>argument key="city" type="string"<|sep|>5<|close|>argument<|sep|>'
        '<|open|>argument key="days" type="number"<|sep|>5<|close|>argument<|sep|>'
        '<|close|>call<|sep|><|open|>call tool="ping" index="2"<|sep|><|close|>call<|sep|>'
        "<|close|>tools<|sep|><|close|>message<|sep|>"
    )
    assert everyway(K3, text) == [
        ("reasoning", "Hm"),
        ("text", "I look."),
        ("call_name", "weather", 0),
        ("call_arguments", '{"city": "5", "days": 5}', 0),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
    ]


def test_minicpm_leaves_types_to_the_schema():
    values = {"city": "5", "days": "5", "tags": '["a"]', "note": "null", "other": "True"}
    params = "".join(f'<param name="{key}">{value}</param>' for key, value in values.items())
    assert everyway(MINICPM5, f'<function name="weather">{params}</function>\n<function name="ping"></function>') == [
        ("call_name", "weather", 0),
        ("call_arguments", '{"city": "5", "days": 5, "tags": ["a"], "note": null, "other": true}', 0),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
    ]


def test_cdata_is_a_text_that_may_hold_the_end():
    param = '<param name="city"><![CDATA[<a>\n</param>]]></param>'
    assert everyway(MINICPM5, f'<function name="weather">{param}</function>')[1] == (
        "call_arguments",
        '{"city": "<a>\\n</param>"}',
        0,
    )


def test_a_tool_that_nobody_offered_is_not_called():
    text = dsml("tool_calls", invoke("walk"))
    assert everyway(V4, text) == [("text", text)]
    assert everyway(MINICPM5, '<function name="walk"></function>') == [("text", '<function name="walk"></function>')]
