"""The markup of templates that were written for this test in the ways of those in use, found by rendering them."""

import pytest

from edgellm.text.chat import ChatTemplate
from edgellm.text.markup import MAX_TEXT, markup_of
from edgellm.types.markup import AnswerMarkup, JsonCalls, Markup, NamedCalls, ReasoningMarkup, TaggedCalls

THINK = ReasoningMarkup("<think>", "</think>")


def template(calls="", thought="", content="{{ m.content or '' }}", loop=True):
    """ChatML, with the text of each call, the texts around all, and of a thought."""
    before, each, after = calls if isinstance(calls, tuple) else ("", calls, "")
    each = "{% for c in m.tool_calls %}{% set f = c.function %}" + each + "{% endfor %}" if loop else each
    return ChatTemplate(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content %}" + thought + "{% endif %}" + content + "{% if m.tool_calls %}"
        f"{before}{each}{after}{{% endif %}}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


OBJECT = '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
PAIRS = "{% for k, v in f.arguments.items() %}"
NAMED_PAIRS = PAIRS + '<p name="{{ k }}">{{ v }}</p>{% endfor %}'
ONLY_ONE = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}"


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("\n<tool_call>\n" + OBJECT + "\n</tool_call>", JsonCalls("<tool_call>", "</tool_call>")),
        (("<calls>\n", OBJECT + "\n", "</calls>"), JsonCalls(section_open="<calls>", section_close="</calls>")),
        (
            ("<all>", "<one>" + OBJECT + "</one>", "</all>"),
            JsonCalls("<one>", "</one>", "<all>", "</all>"),
        ),
        (
            ("<|tool_call|>[", OBJECT + "{% if not loop.last %}, {% endif %}", "]<|/tool_call|>"),
            JsonCalls(section_open="<|tool_call|>", section_close="<|/tool_call|>", array=True),
        ),
        (
            ("[TOOLS]", "[{{ f.arguments | tojson }}, \"{{ f.name }}\"]", ""),
            None,  # a list that is no call
        ),
        (
            '{"id": "{{ c.id }}", "function": {"tool": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}}',
            JsonCalls(wrapper="function", name_key="tool", arguments_key="parameters", id_key="id"),
        ),
        ("<c>{\"{{ f.name }}\": {{ f.arguments | tojson }}}</c>", JsonCalls("<c>", "</c>", name_is_key=True)),
        (
            "<function={{ f.name }}>{{ f.arguments | tojson }}</function>",
            NamedCalls("<function=", ">", "</function>"),
        ),
        (
            ("<calls>", "<call>{{ f.name }}<id>{{ c.id }}<args>\n{{ f.arguments | tojson }}\n<end>", "</calls>"),
            NamedCalls("<call>", "<args>", "<end>", "<calls>", "</calls>", id_open="<id>"),
        ),
        (
            "\n<tool_call>\n<function={{ f.name }}>\n" + PAIRS
            + "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>",
            TaggedCalls(
                "<tool_call>\n<function=", ">", "<parameter=", ">", "\n</parameter>", close="</function>\n</tool_call>"
            ),
        ),
        (
            ("<all>", '<invoke name="{{ f.name }}">' + NAMED_PAIRS + "</invoke>", "</all>"),
            TaggedCalls(
                '<invoke name="', '">', '<p name="', '">', "</p>",
                close="</invoke>", section_open="<all>", section_close="</all>",
            ),
        ),
        (
            "<tool_call>{{ f.name }}\n" + PAIRS + "<k>{{ k }}</k>\n<v>{{ v }}</v>\n{% endfor %}</tool_call>",
            TaggedCalls("<tool_call>", "", "<k>", "</k>", "</v>", "<v>", "</tool_call>"),
        ),
        ("{{ f.name }} with {{ f.arguments | tojson }}", None),  # no mark before the name
        ("<id>{{ c.id }}<name>{{ f.name }}<args>{{ f.arguments | tojson }}", None),  # whose id would be a mark
        ("<c>{{ '-' * 5000 }}" + OBJECT + "</c>", None),  # too long for a mark
    ],
)  # fmt: skip
def test_calls_are_what_differs(calls, expected):
    assert markup_of(template(calls)).calls == expected


def test_a_template_of_one_call():
    one = "{% set f = m.tool_calls[0].function %}"
    assert markup_of(template(ONLY_ONE + one + "<c>" + OBJECT + "</c>", loop=False)).calls == JsonCalls("<c>", "</c>")


def test_arguments_as_text_where_the_template_wants_them_so():
    text = '<c>{"name": "{{ f.name }}", "arguments": {{ "" + f.arguments }}}</c>'
    assert markup_of(template(text)).calls == JsonCalls("<c>", "</c>")


@pytest.mark.parametrize(
    ("thought", "content", "expected"),
    [
        ("<think>\n{{ m.reasoning_content }}\n</think>\n\n", "{{ m.content }}", Markup(THINK)),
        ("[THINK]{{ m.reasoning_content }}[/THINK]", "{{ m.content }}", Markup(ReasoningMarkup("[THINK]", "[/THINK]"))),
        ("{{ m.reasoning_content }}</think>", "{{ m.content }}", Markup(THINK)),
        (
            "<a>{{ m.reasoning_content }}</a><response>",
            "{{ m.content }}",
            Markup(ReasoningMarkup("<a>", "</a>"), answer=AnswerMarkup("<response>")),
        ),
        ("", "{{ m.content.split('</think>')[-1] }}", Markup(THINK)),
        ("{{ m.reasoning_content }} so: ", "{{ m.content }}", Markup()),
        ("", "{{ m.content }}", Markup()),
    ],
)
def test_thoughts_are_what_differs(thought, content, expected):
    assert markup_of(template(thought=thought, content=content)) == expected


def test_a_call_ends_a_thought_where_arguments_are_marked():
    tagged = "<f={{ f.name }}>" + PAIRS + "<p={{ k }}>{{ v }}</p>{% endfor %}</f>"
    assert markup_of(template(tagged, "<think>{{ m.reasoning_content }}</think>")).reasoning.ended_by_call


def test_calls_that_are_only_described():
    described = "{% if tools %}Write <tool_call>..</tool_call>{% endif %}{{ m.content }}"
    assert markup_of(template(content=described)).calls == JsonCalls("<tool_call>", "</tool_call>")


def test_a_family_is_known_by_its_signs():
    assert markup_of(template(content="<|tool|><|/tool|>{{ m.content }}")).calls.section_open == "<|tool_call|>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{% for i in range(99999999) %}{{ i }}{% endfor %}",
        "{{ 'x' * 1000000 }}{{ messages }}",
        "{{ messages }}",
        "{% for m in messages %}{{ m.content }}{{ '[' * 4000 }}{{ m.tool_calls }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "{{ c.function.arguments }}{{ c.function.name }}{{ c.function.arguments }}{% endfor %}{% endfor %}",
    ],
)  # fmt: skip
def test_a_template_that_shows_nothing_has_no_markup(source):
    assert markup_of(ChatTemplate(source)) == Markup()


def test_a_render_that_is_too_long_is_not_compared():
    padding = "{{ '-' * " + str(MAX_TEXT) + " }}"
    assert markup_of(template("<c>" + OBJECT + "</c>", content=padding + "{{ m.content }}")).calls is None


def test_probing_ends_when_its_time_is_over(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("edgellm.text.markup.time.thread_time", lambda: next(now))
    spent = template("<c>" + OBJECT + "</c>", "<think>{{ m.reasoning_content }}</think>")
    assert markup_of(spent) == Markup(
        THINK
    )  # the two renders of a plain answer, and no more; </think> stands in the source
