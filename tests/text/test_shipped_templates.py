"""The chat templates that llama.cpp ships, which are those of models in use: what each makes of five conversations."""

import pytest

from edgellm.contract.engine import EngineInfo
from edgellm.errors import BadTemplate
from edgellm.text.prompt import PromptBuilder
from edgellm.types.message import Message, Tool, ToolCall

NEEDED = 70  # of 71
TOOL = Tool(
    "get_weather",
    "Tells the weather of a town.",
    {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
)
ASKED = Message("user", "Is it raining in Reykjavik?")
FROM_OBJECT, FROM_TEXT = '{"town":"Bergen"}', '{ "town" : "Bergen" }'  # as clients send arguments
GREETED = (Message("user", "Hi"), Message("assistant", "Hello there", "They greet me."), Message("user", "More"))
WRITTEN = ("Reykjavik", "get_weather", "Tells the weather of a town.", "town", "Bergen", "wet and 7 degrees")


def called(arguments, thought=""):
    call = ToolCall("get_weather", arguments, "call_abcdef0123456789")
    result = Message("tool", "wet and 7 degrees", call_id=call.id)
    return (ASKED, Message("assistant", reasoning=thought, calls=(call,)), result)


THOUGHT = (
    (called(FROM_OBJECT, "I should ask."), (TOOL,)),
    ((ASKED, Message("assistant", "Ask in Bergen.", "I should ask.")), ()),
)


def builder(source):
    return PromptBuilder(
        EngineInfo(1, 4096, 64, 64, 100, frozenset(), chat_template=source, bos_text="<s>", eos_text="</s>")
    )


def lacks(prompts, messages, tools, texts, **options):
    """What went wrong: a refusal, or texts that are not in the prompt."""
    try:
        prompt = prompts.build(messages, tools, **options).text
    except BadTemplate as error:
        return [str(error)]
    # An object as Python writes it, or JSON inside of JSON.
    foreign = [text for text in ("{'town': 'Bergen'", '\\"Bergen') if text in prompt]
    return [text for text in texts if text not in prompt] + foreign


def failures(source):
    prompts = builder(source)
    problems = [
        *lacks(prompts, (Message("system", "Be brief."), ASKED), (), ("Be brief.", "Reykjavik")),
        *lacks(prompts, (ASKED,), (TOOL,), WRITTEN[:4]),
        *lacks(prompts, called(FROM_OBJECT), (TOOL,), WRITTEN),
        *lacks(prompts, called(FROM_TEXT), (TOOL,), WRITTEN),
        *lacks(prompts, GREETED, (), ("Hi", "Hello there", "More"), thinking=True),
    ]
    # Some write a thought behind a question only, some before a call only.
    thoughts = [
        lacks(prompts, asked, tools, ("I should ask.",), thinking=True, add_generation_prompt=False)
        for asked, tools in THOUGHT
    ]
    return problems + (min(thoughts, key=len) if prompts.caps.reasoning else [])


@pytest.mark.slow(20)
def test_those_in_use_take_the_five_conversations(llama_cpp):
    templates = sorted((llama_cpp / "models/templates").glob("*.jinja"))
    assert len(templates) == 71

    failed = {path.name: problems for path in templates if (problems := failures(path.read_text("utf-8")))}

    assert len(templates) - len(failed) >= NEEDED, failed
