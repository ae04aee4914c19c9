"""What is found out about a template by rendering it."""

from dataclasses import replace

import pytest

from edgellm.text.chat import ChatTemplate
from edgellm.text.template_caps import REASONING_PARTS, TemplateCaps, caps_of

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
PLAIN = TemplateCaps(
    system=True, late_system=True, repeated_roles=True, tool_role=True, openings=("<a>", "<a>"), tools_unset=False
)


def caps(source):
    return caps_of(ChatTemplate(source))


def each(body):
    """A template that writes `body` for each message."""
    return "{% for m in messages %}" + body + "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"


CALLS = "{% for c in m.tool_calls or [] %}[{{ c.function.name }} #]{% endfor %}"


def calls(arguments):
    return each("{{ m.role }}{{ m.content }}" + CALLS.replace("#", arguments))


TAGGED = calls("{% for k, v in c.function.arguments | items %}{{ k ~ v }}{% endfor %}")
NULL_CONTENT = each(
    "{% if m.content is none %}"
    + CALLS.replace("#", "{{ c.function.arguments | tojson }}")
    + "{% endif %}{{ m.content }}"
)


def test_one_that_writes_roles_and_text():
    assert caps(TURNS) == PLAIN


@pytest.mark.parametrize(
    ("source", "lacking"),
    [
        pytest.param(TURNS + "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}", "system"),
        pytest.param(each("{% if loop.first or m.role != 'system' %}{{ m.content }}{% endif %}"), "late_system"),
        pytest.param(
            each("{{ m.content }}{% if loop.previtem and loop.previtem.role == m.role %}{{ 1 / 0 }}{% endif %}"),
            "repeated_roles",
        ),
        pytest.param(each("{% if m.role != 'tool' %}{{ m.content }}{% endif %}"), "tool_role"),
    ],
)  # fmt: skip
def test_what_it_does_not_take(source, lacking):
    assert getattr(caps(source), lacking) is False
    assert [
        name for name in ("system", "late_system", "repeated_roles", "tool_role") if not getattr(caps(source), name)
    ]


def test_content_in_parts():
    assert caps(each("{% for part in m.content %}{{ part.text }}{% endfor %}")).content == "parts"
    assert caps(TURNS).content == "text"


def test_tools_that_must_not_be_none():
    found = caps("{% if tools is defined %}{{ tools | length }}{% endif %}" + TURNS)

    assert found.tools_unset
    assert found.tools is None


def test_functions_that_have_to_be_there():
    """Firefunction's template adds them to its text, also where a conversation has none."""
    found = caps("{{ 'Functions: ' + functions }}" + TURNS)

    assert found == replace(PLAIN, functions_set=True, tools=("functions", "text"))


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("{% if tools %}{{ tools | tojson }}{% endif %}", ("tools", "wrapped")),
        ("{% for t in tools or [] %}{{ t.function.values() | list }}{% endfor %}", ("tools", "wrapped")),
        ("{% for t in tools or [] %}{{ t.name + t.description ~ t.parameters }}{% endfor %}", ("tools", "bare")),
        ("{% if xml_tools %}{{ xml_tools | tojson }}{% endif %}", ("xml_tools", "wrapped")),
        ("{% for t in tools or [] %}{{ t.function.name }}{% endfor %}", None),
        ("", None),
    ],
)  # fmt: skip
def test_tools(description, expected):
    assert caps(description + TURNS).tools == expected


@pytest.mark.parametrize(
    ("source", "form", "null_content"),
    [
        pytest.param(calls("{{ c.function.arguments | tojson }}"), "object", False, id="object"),
        pytest.param(TAGGED, "object", False, id="tagged"),
        pytest.param(calls("{{ c.function.arguments }}"), "text", False, id="text"),
        pytest.param(calls("{{ c.function.arguments + '' }}"), "text", False, id="only text"),
        pytest.param(NULL_CONTENT, "object", True, id="null content"),
        pytest.param(calls("{}"), None, False, id="no arguments"),
        pytest.param(TURNS, None, False, id="no calls"),
    ],
)  # fmt: skip
def test_arguments_of_calls(source, form, null_content):
    found = caps(source)

    assert (found.arguments, found.null_content) == (form, null_content)


def test_several_calls_in_one_message():
    one = calls("{{ c.function.arguments | tojson }}{% if not loop.first %}{{ raise_exception('one') }}{% endif %}")

    assert caps(calls("{{ c.function.arguments | tojson }}")).parallel_calls
    assert not caps(one).parallel_calls


def test_ids_that_have_to_be_short():
    strict = "{% if c.id | length != 9 %}{{ raise_exception('9') }}{% endif %}{{ c.function.arguments | tojson }}"

    assert caps(calls(strict)).short_ids
    assert not caps(calls("{{ c.function.arguments | tojson }}")).short_ids


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_in_history(name):
    assert caps(each("{{ m.role ~ m.content ~ m." + name + " }}")).reasoning == name


MISTRAL_THOUGHTS = each(
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'thinking' %}[THINK]{{ part.thinking }}[/THINK]{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}"
)


def test_reasoning_in_parts_of_the_content():
    assert caps(MISTRAL_THOUGHTS).reasoning == REASONING_PARTS
    assert caps(each("{{ m.content | string }}")).reasoning == ""
    assert caps(each("{{ m.content | tojson }}")).reasoning == ""


def test_reasoning_that_is_only_written_before_a_call():
    source = calls("{{ c.function.arguments | tojson }}{{ m.thinking }}")

    assert caps(source).reasoning == "thinking"


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_a_switch_for_thinking(name):
    found = caps(TURNS + "{% if add_generation_prompt and " + name + " %}<think>{% endif %}")

    assert found.switch == name
    assert found.openings == ("<a>", "<a><think>")
    assert found.variables(thinking=True)[name] is True


def test_thinking_that_nothing_turns_off():
    found = caps(TURNS + "{% if add_generation_prompt %}<think>{% endif %}")

    assert (found.switch, found.openings) == ("", ("<a><think>", "<a><think>"))


@pytest.mark.slow(4)
def test_a_template_that_takes_long_is_asked_for_a_tenth_of_a_second_each_time(monkeypatch):
    """A hostile one fails every probe, and takes part in none: three seconds are the most in all."""
    seconds = []

    class Spy(ChatTemplate):
        def probe(self, messages, **variables):
            seconds.append(0.1)
            return super().probe(messages, **variables)

    found = caps_of(Spy("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"))

    assert found == TemplateCaps()
    assert len(seconds) < 50
