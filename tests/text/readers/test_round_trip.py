"""Calls that a template writes into the history are read as they were."""

import json
from string import ascii_letters

import pytest
from support.reading import SCHEMA, read

from edgellm.errors import BadTemplate
from edgellm.text.chat import ChatTemplate
from edgellm.text.markup import markup_of
from edgellm.types.markup import Reading
from edgellm.types.message import Tool

TOOLS = (Tool("weather", "d", SCHEMA), Tool("ping", "d", {"type": "object", "properties": {}}))
CONVERSATIONS = (
    [("weather", {"city": "Ulm", "days": 3})],
    [("weather", {"city": 'a "b" \\d\n <x> \u00fc', "note": "5"})],
    [("weather", {"days": -1, "tags": ["a", 'b"c'], "place": {"lat": 1.5, "name": "q"}})],
    [("ping", {})],
    [("weather", {"city": "Ulm"}), ("weather", {"days": 2})],
)
# Templates that write no calls, or other than their model does.
WITHOUT = (
    "Apriel-1.6-15b-Thinker-fixed",  # its prompt opens a thought, its history does not
    "CohereForAI-c4ai-command-r-plus-tool_use",  # another variable
    "HuggingFaceTB-SmolLM3-3B",
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "fireworks-ai-llama-3-firefunction-v2",  # another variable
    "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
    "upstage-Solar-Open-100B",  # an id before the name, which is not read
)


TOOL_LIST = [
    {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
    for t in TOOLS
]


def turn(template, message):
    """A conversation that ends with this message; none: with the prompt for it."""
    messages = [{"role": "user", "content": "Hey"}, *([{"role": "assistant", **message}] if message else [])]
    return template.render(messages, tools=TOOL_LIST, enable_thinking=False, add_generation_prompt=not message)


def answered(template, calls):
    """What stands before and in an answer of these calls. Arguments are written as the template takes them."""
    error = None
    for write in (dict, lambda arguments: json.dumps(arguments, ensure_ascii=False)):
        written = [
            {"type": "function", "id": f"{i}23456789", "function": {"name": name, "arguments": write(arguments)}}
            for i, (name, arguments) in enumerate(calls)
        ]
        try:
            whole = turn(template, {"content": "", "tool_calls": written})
        except BadTemplate as problem:
            error = problem
            continue
        prompt, plain = turn(template, {}), turn(template, {"content": "pLAIN"})
        n_shared = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        shared = prompt[:n_shared] if n_shared == len(prompt) else prompt[:n_shared].rstrip(ascii_letters + "<|_")
        return shared, whole.removeprefix(shared).removesuffix(plain.rpartition("pLAIN")[2])
    raise error


def problems(template):
    """What is not read as it was. Conversations that the template refuses are none."""
    for calls in CONVERSATIONS:
        try:
            shared, text = answered(template, calls)
        except BadTemplate:
            continue
        parts = read(Reading(markup_of(template), shared[-64:], TOOLS), text)
        names = [part.text for part in parts if part.kind == "call_name"]
        arguments = [part.text for part in parts if part.kind == "call_arguments"]
        try:
            was_read = list(zip(names, map(json.loads, arguments), strict=True))
            same = was_read in (calls, calls[:1])  # some write only one
        except ValueError:
            same = False
        if not same:
            yield f"{text!r} is read as {parts}"


@pytest.mark.slow(60)
def test_calls_that_a_template_writes_are_read_as_they_were(llama_cpp):
    templates = {path.stem: path.read_text(encoding="utf-8") for path in llama_cpp.glob("models/templates/*.jinja")}
    assert len(templates) >= 70
    assert set(WITHOUT) <= set(templates)
    wrong = {name: list(problems(ChatTemplate(source))) for name, source in templates.items() if name not in WITHOUT}
    assert {name: found for name, found in wrong.items() if found} == {}
