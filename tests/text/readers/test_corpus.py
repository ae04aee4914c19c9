"""The cases of llama.cpp's test of its own readers, whole and in pieces. Run with -s to see the share by template."""

import json
from collections import Counter
from functools import cache

import pytest
from support.chat_corpus import cases

from edgellm.errors import BadTemplate
from edgellm.text.chat import ChatTemplate
from edgellm.text.markup import markup_of
from edgellm.text.readers import reader_of
from edgellm.types.markup import Markup, Reading
from edgellm.types.message import Message

# What is read in another way, and why: line of the case -> reason.
_FENCED = "JSON under a schema comes bare here: the grammar allows no fence around it"
_UNREAD = "there is no `reasoning_format: none`: thoughts are always told apart"
_ENDS = "the token that ends a turn never comes as text"
EXCEPTIONS: dict[int, str] = {
    2648: _FENCED,
    6318: _FENCED,
    3011: _UNREAD,
    6458: _UNREAD,
    4742: _ENDS,
    4748: _ENDS,
}


@cache
def template_of(path):
    return ChatTemplate(path.read_text(encoding="utf-8"), bos_text="<s>", eos_text="</s>")


@cache
def rendered(path, thinking, tooled, generates):
    """As far as the template goes with the simplest conversation."""
    tools = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}] if tooled else None
    messages = [Message("user", "Hey")]
    return template_of(path).render(messages, add_generation_prompt=generates, enable_thinking=thinking, tools=tools)


def opened_by(path, case, markup):
    """What the prompt ends with."""
    try:
        whole = rendered(path, case.thinking, bool(case.tools), True)
        opened = whole.removeprefix(rendered(path, case.thinking, bool(case.tools), False))
    except BadTemplate:
        opened = ""
    if not case.continues:
        return opened
    last, thought = case.messages[-1], markup.reasoning
    if thought and last.reasoning and thought.open.strip() not in opened:
        opened += thought.open
    if case.continues == "REASONING":
        return opened + last.reasoning
    return opened + (f"{last.reasoning}{thought.close}" if thought and last.reasoning else "") + last.content


def message_read(reading, pieces):
    reader = reader_of(reading)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    said = Counter()
    calls = {}
    for part in parts:
        if part.kind == "call_name":
            assert part.call == len(calls), "calls are told in order"
            calls[part.call] = [part.text, ""]
        elif part.kind == "call_arguments":
            calls[part.call][1] += part.text
        else:
            said[part.kind] = (said[part.kind] or "") + part.text
    return said["text"] or "", said["reasoning"] or "", [tuple(call) for call in calls.values()]


def normal(arguments):
    """As the original compares: what is not whole JSON is as nothing."""
    try:
        return json.dumps(json.loads(arguments))
    except ValueError:
        return ""


def comparable(content, reasoning, calls):
    return content.strip(), reasoning.strip(), [(name, normal(arguments)) for name, arguments in calls]


def expected(template, case, opened):
    """Without what the prompt said already, which is no part of the answer."""
    content, reasoning = case.content, case.reasoning
    thought = markup_of(template).reasoning
    if thought and case.reads_thoughts and not case.continues:
        reasoning = reasoning.removeprefix(opened.rpartition(thought.open)[2].strip())
    if case.continues:
        reasoning = reasoning.removeprefix(case.messages[-1].reasoning) if case.reads_thoughts else reasoning
        content = content.removeprefix(case.messages[-1].content) if case.continues == "CONTENT" else content
    if not case.reads_thoughts:
        said = opened.strip()
        shared = max((n for n in range(len(said) + 1) if content.startswith(said[len(said) - n :])), default=0)
        content = content[shared:]
    return comparable(content, reasoning, [(call.name, call.arguments) for call in case.calls])


def reading_of(path, case):
    markup = markup_of(template_of(path))
    opened = opened_by(path, case, markup)
    if not case.reads_thoughts:
        markup = replace_reasoning(markup)
    return Reading(markup, opened, case.tools)


def replace_reasoning(markup):
    return Markup(None, markup.calls, markup.answer)


def problem_of(path, case):
    """What is read wrongly, or None."""
    try:
        reading = reading_of(path, case)
        wanted = expected(template_of(path), case, reading.opened)
        whole = message_read(reading, [case.text])
        if comparable(*whole) != wanted:
            return f"read {comparable(*whole)}, not {wanted}"
        if message_read(reading, case.text) != whole:
            return "by characters it is another message"
        for i in range(1, len(case.text), 7):
            if message_read(reading, [case.text[:i], case.text[i:]]) != whole:
                return f"cut at {i} it is another message"
    except Exception as error:  # counted, and shown
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.slow(60)
def test_the_corpus_is_read_as_its_authors_mean_it(llama_cpp):
    n_cases, problems = Counter(), []
    for case in cases(llama_cpp):
        n_cases[case.template] += 1
        if problem := problem_of(llama_cpp / "models/templates" / case.template, case):
            problems.append((case.template, case.line, problem))
    n_wrong = Counter(template for template, _, _ in problems)
    for template, n in sorted(n_cases.items()):
        print(f"{n - n_wrong[template]:3} of {n:3}  {template}")
    for template, line, problem in problems:
        print(f"{template}:{line}: {problem[:600]}")

    lines = {line for _, line, _ in problems}
    print(f"{435 - len(lines)} of 435 runs, {sum(n_cases.values()) - len(problems)} of {sum(n_cases.values())} cases")
    assert 435 - len(lines) >= 80
