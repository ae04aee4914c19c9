"""Response templates of Hugging Face as rows, and what of them is none. The templates: `support.response_templates`."""

import json
import re

import pytest
from support.reading import PING, WEATHER, everyway
from support.response_templates import CASES, HERMES, NAMED, THINK, template

from edgellm.text.chat import ChatTemplate
from edgellm.text.known_markup import THINK as THINKS
from edgellm.text.mark_patterns import MAX_PATTERN, alternatives
from edgellm.text.markup import markup_of
from edgellm.text.response_template import MAX_CHARS, declared_markup
from edgellm.types.markup import JsonCalls, LiteralCalls, Markup, Reading, ReasoningMarkup, TaggedCalls
from edgellm.types.sampling_defaults import UnusedKey

TOOLS = (WEATHER, PING)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_template_in_use_is_a_row(case):
    assert declared_markup(json.dumps(case.template)) == case.markup


def message(case, answer):
    """(thought, text, calls) of an answer."""
    parts = everyway(Reading(case.markup, case.opened, TOOLS), answer)
    texts = {kind: "".join(part[1] for part in parts if part[0] == kind) for kind in ("reasoning", "text")}
    calls = {}
    for kind, text, *number in parts:
        if kind.startswith("call"):
            calls.setdefault(number[0], {"call_name": "", "call_arguments": ""})[kind] += text
    named = [(call["call_name"], json.loads(call["call_arguments"])) for call in calls.values()]
    return texts["reasoning"].strip(), texts["text"].strip(), named


@pytest.mark.slow(4)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_answers_are_read_as_transformers_does(case):
    parsing = pytest.importorskip("transformers.utils.chat_parsing", reason="transformers 5.13 is not installed")
    tools = [{"type": "function", "function": {"name": tool.name, "parameters": tool.parameters}} for tool in TOOLS]
    for answer in case.answers:
        prefix = f"<|assistant|>{case.opened}"
        theirs = parsing.parse_response(answer, case.template, prefix=prefix, tools=tools)
        functions = [call["function"] for call in theirs.get("tool_calls", [])]
        # It reads "^" in front of what the prompt opens, too.
        thought = next((theirs[name] for name in ("thinking", "reasoning_content") if name in theirs), "")
        calls = [(function["name"], function["arguments"]) for function in functions]
        assert message(case, answer) == (thought.removeprefix("<think>").strip(), theirs.get("content", ""), calls)


def tagged(**changed):
    arguments = {"tag_pattern": "<p>(?P<key>.*?)=(?P<value>.*?)</p>"} | changed
    field = {"open_pattern": r"<f=(?P<name>\w+)>", "close": "</f>", "content": "xml-inline", "content_args": arguments}
    return {**field, "repeats": True, "transform": NAMED}


def test_tags_of_one_text_between_name_and_value_are_a_row():
    calls = TaggedCalls("<f=", ">", "<p>", "=", "</p>", close="</f>")
    assert declared_markup(json.dumps(template(tool_calls=tagged()))) == Markup(calls=calls)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"tool_calls": {**HERMES, "content": "kv-lines"}}, "fields.tool_calls.content"),
        ({"tool_calls": {**HERMES, "content_args": {"allow_non_json": True}}}, "fields.tool_calls.content_args"),
        ({"tool_calls": {**HERMES, "transform": None}}, "fields.tool_calls.transform"),
        ({"tool_calls": {**HERMES, "transform": {"function": "{content}", "index": 0}}}, "fields.tool_calls.transform"),
        ({"tool_calls": {**HERMES, "transform": {"function": {"name": "{content.a.b.n}", "arguments": "{content}"}}}},
         "fields.tool_calls.transform"),
        ({"tool_calls": {**HERMES, "repeats": False}}, "fields.tool_calls.repeats"),
        ({"tool_calls": {**HERMES, "open": None}}, "fields.tool_calls.open"),
        ({"tool_calls": {**HERMES, "open": " "}}, "fields.tool_calls.open"),
        ({"tool_calls": {**HERMES, "close": ["</a>", "</b>"]}}, "fields.tool_calls.close"),
        ({"tool_calls": {**HERMES, "open_pattern": "<tool_call>"}}, "fields.tool_calls.open_pattern"),
        ({"tool_calls": {**HERMES, "open": None, "open_pattern": r"(<a>)+(?P<name>\w+)", "transform": NAMED}},
         "fields.tool_calls.open_pattern"),
        ({"tool_calls": {**HERMES, "open": None, "open_pattern": r"<a>(?P<tool>\w+)", "transform": NAMED}},
         "fields.tool_calls.transform"),
        ({"tool_calls": {**HERMES, "open": None, "open_pattern": r"<a>(?P<name>\w+).*?>", "transform": NAMED}},
         "fields.tool_calls.open_pattern"),
        ({"tool_calls": {**HERMES, "open": None, "open_pattern": r"<a>(?P<name>\w+) x.*?>", "transform": NAMED}},
         "fields.tool_calls.open_pattern"),
        ({"tool_calls": {**HERMES, "open": None, "open_pattern": r"<a>(?P<name>\w+)>",
                         "transform": {"function": {"name": "{name}", "arguments": "{content.a}"}}}},
         "fields.tool_calls.transform"),
        ({"tool_calls": {**HERMES,
                         "transform": {"function": {"name": "{content.a.b.n}", "arguments": "{content.a.b.x}"}}}},
         "fields.tool_calls.transform"),
        ({"tool_calls": {**HERMES, "transform": {"type": "custom", "function": "{content}"}}},
         "fields.tool_calls.transform"),
        ({"tool_calls": tagged(value_parser={"name": "int"})}, "fields.tool_calls.content_args"),
        ({"tool_calls": tagged(merge_duplicates=True)}, "fields.tool_calls.content_args"),
        ({"tool_calls": tagged(tag_pattern="<p>(?P<key>.*?)=(?P<value>.*)")}, "fields.tool_calls.content_args"),
        ({"tool_calls": tagged(tag_pattern=3)}, "fields.tool_calls.content_args"),
        ({"thinking": {"open": "<think>"}}, "fields.thinking.close"),
        ({"thinking": {**THINK, "content": "json"}}, "fields.thinking.content"),
        ({"thinking": {**THINK, "repeats": True}}, "fields.thinking.join"),
        ({"thinking": {**THINK, "transform": "{content}"}}, "fields.thinking.transform"),
        ({"thinking": THINK, "reasoning": THINK}, "fields"),
        ({"content": {"open": "<a>", "close_pattern": "(?=<b>)"}}, "fields.content.close_pattern"),
        ({"citations": {"open": "<c>", "close": "</c>"}}, "fields"),
        ({}, "fields"),
    ],
)  # fmt: skip
def test_what_a_row_cannot_say_is_named(changed, key):
    unused = declared_markup(json.dumps(template(**changed)))
    assert isinstance(unused, UnusedKey)
    assert unused.key == f"response_template.{key}"


@pytest.mark.parametrize(
    "text",
    [
        "5", "null", "[]", '"<think>"', "{}", "nope", "NaN", '{"fields": []}', '{"fields": {"content": 1}}',
        '{"fields": {"content": {"open": {}}}}', '{"fields": {"content": {}}, "version": 2}', '"\\ud800"',
        '{"fields": {"content": {}}, "later": 1}', '{"fields": {"content": {"region": "x"}}}',
        '{"fields": {"content": {"content_args": ' + "[" * 60_000 + "}", "[" * 60_000,
        " " * MAX_CHARS + '{"fields": {"content": {}}}', '{"fields": {"content": {"transform": ' + "[" * 60_000,
        *('{"fields": {"content": {"transform": ' + "[" * n + "]" * n + "}}}" for n in (200, 900, 990)),
        '{"fields": {"' + "x" * 60_000 + '": {}}}',
    ],
    ids=range(22),
)  # fmt: skip
def test_what_is_no_template_is_named_in_short(text):
    unused = declared_markup(text)
    assert isinstance(unused, UnusedKey)
    assert len(unused.key + unused.value) < 200
    assert unused.value.isprintable()


NOT_MARKS = (
    "a+", "<a>?", r"\d", r"\bx", "a|b", "^a", "a$", "(a)", "(?:a)*", "(?i)a", "(?=a)", "(?P<x>a)", "a{3}", "[ab]",
    "\\", "(?:a|(?:b))", r"(?P<name>\w+)+", "(?P<name>(a+)+)", "(?P=name)", "(?:a|", "a" * (MAX_PATTERN + 1),
)  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "rows"),
    [
        (r"<\|a\|>", [("<|a|>",)]),
        (r"\s*<a>\n?", [("\n<a>\n",)]),
        (r"a:(?P<name>[^\]\n]+?)\[b\]", [("a:", "name", "[b]")]),
        (r"<a>.*?<b>", [("<a>", "", "<b>")]),
        (r"\s*(?:<a>|\|)", [("<a>",), ("|",)]),
        (r"(?:^|<a>)", [("",), ("<a>",)]),
        ("", [("",)]),
        *((pattern, None) for pattern in NOT_MARKS),
    ],
)  # fmt: skip
def test_a_pattern_is_its_texts_and_parts(pattern, rows):
    assert alternatives(pattern) == rows


EVIL = (
    "(a+)+$",
    "(?:a|a)*b",
    "([^<]*<?)*x",
    r"(?P<name>(\w+\s?)*)>",
    "(?:" * 300,
    "[" * 1000,
    "[^" * 500,
    "(?:|" * 250,
)


@pytest.mark.parametrize("pattern", [*EVIL, r"(?P<name>[^a]+)(?P<name>.*)", "(?P<a>" * 150], ids=range(10))
def test_no_pattern_of_a_file_is_compiled(pattern, monkeypatch):
    compiled = []
    compile_ = re.compile
    monkeypatch.setattr(re, "compile", lambda text, *flags: compiled.append(text) or compile_(text, *flags))
    for name in ("thinking", "content", "tool_calls"):
        field = {**HERMES, "open": None} if name == "tool_calls" else {"close": "x"}
        assert isinstance(
            declared_markup(json.dumps(template(**{name: {**field, "open_pattern": pattern}}))), UnusedKey
        )
    assert compiled == []


PLAIN = ChatTemplate("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}")


def test_what_is_declared_goes_before_what_is_shown_or_known():
    calls = JsonCalls("<call>", "</call>")
    declared = Markup(ReasoningMarkup("<idea>", "</idea>"), calls)
    for source in ("", "<|tool_call>call:"):
        read = markup_of(ChatTemplate(PLAIN.source + source), declared)
        assert (read.reasoning, read.calls) == (declared.reasoning, calls)


def test_what_is_not_declared_is_found_as_elsewhere():
    known = markup_of(ChatTemplate("xml_tools" + PLAIN.source))
    assert markup_of(ChatTemplate("xml_tools" + PLAIN.source), Markup(calls=JsonCalls("<c>", "</c>"))) == Markup(
        THINKS, JsonCalls("<c>", "</c>")
    )
    assert markup_of(ChatTemplate("xml_tools" + PLAIN.source), Markup()) == known


def test_the_same_marks_are_taken_with_the_white_space_that_the_template_shows():
    shown = "{% for c in m.tool_calls %}<tool_call>\n<function={{ c.function.name }}>\n"
    shown += "{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}"
    shown += "</function>\n</tool_call>{% endfor %}"
    thought = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    source = "{% for m in messages %}<|{{ m.role }}|>" + thought + "{{ m.content }}" + shown + "<|end|>{% endfor %}"
    read = markup_of(ChatTemplate(source), CASES["qwen 3.5"].markup)
    assert isinstance(read.calls, TaggedCalls)
    assert (read.calls.key_close, CASES["qwen 3.5"].markup.calls.key_close) == (">", ">\n")
    assert read.reasoning is not None
    assert read.reasoning.ended_by_call
    gemma = markup_of(ChatTemplate("<|tool_call>call:" + PLAIN.source), CASES["gemma 4"].markup)
    assert isinstance(gemma.calls, LiteralCalls)
    assert gemma.reasoning is not None
    assert gemma.reasoning.again
