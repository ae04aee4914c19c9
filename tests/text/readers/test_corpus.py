"""The cases of llama.cpp's test of its own readers, whole and in pieces. Run with -s to see the share by template."""

import json
import re
from collections import Counter
from functools import cache

import pytest
from support.chat_corpus import cases

from edgellm.contract.engine import EngineInfo
from edgellm.text.prompt import PromptBuilder
from edgellm.text.readers import reader_of
from edgellm.types.markup import Markup, Reading

# What is read in another way, and why: line of the case -> reason.
_FENCED = "JSON under a schema comes bare here: the grammar allows no fence around it"
_UNREAD = "there is no `reasoning_format: none`: thoughts are always told apart"
EXCEPTIONS = {
    2648: _FENCED,
    6318: _FENCED,
    3011: _UNREAD,
    6458: _UNREAD,
}
# Whose models are in the catalog, by the names of template files.
CATALOG = re.compile(
    "Qwen|QwQ|granite|LFM2|DeepSeek-R1|gemma|[Mm]istral|Llama-3|Phi|gpt-oss|MiniCPM5|Nemotron-3|SmolLM3|Hermes-3"
)


@cache
def builder_of(path):
    template = path.read_text(encoding="utf-8")
    return PromptBuilder(
        EngineInfo(
            n_slots=1,
            n_ctx=2**20,
            max_batch_tokens=512,
            max_logits=1,
            vocab_size=1000,
            eos_ids=frozenset({1}),
            bos_text="<s>",
            eos_text="</s>",
            chat_template=template,
        )
    )


def opened_by(builder, case):
    """What the prompt ends with."""
    if case.continues != "REASONING":
        return builder.build(
            case.messages,
            case.tools,
            thinking=case.thinking,
            add_generation_prompt=not case.continues,
            continue_final_message=bool(case.continues),
        ).opened
    opened = builder.build(case.messages[:-1], case.tools, thinking=case.thinking).opened
    thought = builder.markup.reasoning
    return opened + ("" if thought.open.strip() in opened else thought.open) + case.messages[-1].reasoning


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


def expected(builder, case, opened):
    """Without what the prompt said already, which is no part of the answer."""
    content, reasoning = case.content, case.reasoning
    thought = builder.markup.reasoning
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


def reading_of(builder, case):
    markup = builder.markup
    if not case.reads_thoughts:
        markup = Markup(None, markup.calls, markup.answer)
    return Reading(markup, opened_by(builder, case), case.tools)


def problem_of(path, case):
    """What is read wrongly, or None."""
    try:
        builder = builder_of(path)
        reading = reading_of(builder, case)
        wanted = expected(builder, case, reading.opened)
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


@pytest.mark.slow(30)
def test_the_corpus_is_read_as_its_authors_mean_it(llama_cpp):
    corpus = cases(llama_cpp)
    wrong = {}
    for case in corpus:
        if problem := problem_of(llama_cpp / "models/templates" / case.template, case):
            wrong[case] = problem
    _show(corpus, wrong)

    assert len(corpus) == 473, "435 calls of run(), some of them in loops"
    assert {case.line for case in wrong} == EXCEPTIONS.keys()
    ours = [case for case in corpus if CATALOG.search(case.template)]
    assert len(ours) > 150
    assert sum(case not in wrong for case in ours) >= 0.95 * len(ours)


def _show(corpus, wrong):
    n_cases = Counter(case.template for case in corpus)
    n_wrong = Counter(case.template for case in wrong)
    for template, n in sorted(n_cases.items()):
        print(f"{n - n_wrong[template]:3} of {n:3}  {template}{'  (catalog)' if CATALOG.search(template) else ''}")
    for case, problem in wrong.items():
        print(f"{case.template}:{case.line}: {problem[:600]}")
