"""Whatever a model writes: no error, the same at any cut, and values that come back as they were."""

import json

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from support.reading import PING, WEATHER, of_template, read

from edgellm.text.known_markup import FAMILIES
from edgellm.types.markup import Reading

PIECES = (
    *'()[]{},:="\\ \n<>|/1-.x',
    *("weather", "ping", "city", "tags", "place", "item>", "city>", "True", "null", "'", "\\u12", "\\ud83d", "\\ude00"),
    *('{"a": 1}', " to=functions.weather", "all\n", "analysis", "final", ' string="true">', '">', "<![CDATA[", "]]>"),
)
FEW = hypothesis.settings(max_examples=20)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
texts = st.text().map(lambda text: "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000))


def marks(row):
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if isinstance(value, msgspec.Struct):
            yield from marks(value)
        elif isinstance(value, str) and value:
            yield value


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: " ".join(family.signs)[:40])
@hypothesis.given(data=st.data())
@FEW
def test_no_text_is_an_error_and_no_cut_makes_a_difference(family, data):
    text = "".join(data.draw(st.lists(st.sampled_from((*marks(family.markup), *PIECES)), max_size=25)))
    opened = data.draw(st.sampled_from(["", "<|start|>assistant", ">>>", *marks(family.markup)]))
    reading = Reading(family.markup, opened, (WEATHER, PING))
    cut = data.draw(st.integers(0, len(text)))
    assert read(reading, text) == read(reading, *text) == read(reading, text[:cut], text[cut:])


@hypothesis.given(values)
@FEW
def test_python_of_lfm2_comes_back(value):
    name, arguments = read(
        of_template("List of tools: [ <|im_start|>"), f"<|tool_call_start|>[ping(a={value!r})]<|tool_call_end|>"
    )
    assert name.text == "ping"
    assert json.loads(arguments.text) == {"a": value}


@hypothesis.given(values)
@FEW
def test_json_of_lfm2_comes_back(value):
    call = f"<|tool_call_start|>[ping(a={json.dumps(value)})]<|tool_call_end|>"
    assert json.loads(read(of_template("List of tools: [ <|im_start|>"), call)[1].text) == {"a": value}


def gemma(value):
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, list):
        return f"[{','.join(map(gemma, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{gemma(key)}:{gemma(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value)


@hypothesis.given(values)
@FEW
def test_values_of_gemma_come_back(value):
    call = f"<|tool_call>call:ping{{a:{gemma(value)}}}<tool_call|>"
    assert json.loads(read(of_template("<|tool_call>call:"), call)[1].text) == {"a": value}


@hypothesis.given(texts, values)
@FEW
def test_values_of_dsml_come_back(text, value):
    hypothesis.assume("<" not in text)
    call = (
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="ping">\n'
        f'<｜DSML｜parameter name="a" string="true">{text}</｜DSML｜parameter>\n'
        f'<｜DSML｜parameter name="b" string="false">{json.dumps(value)}</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    )
    assert json.loads(read(of_template("DSML tool_calls"), call)[1].text) == {"a": text, "b": value}
