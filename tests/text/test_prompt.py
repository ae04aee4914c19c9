"""Conversations as templates take them: what is moved, merged and told, and what is refused."""

import json

import pytest
from support.refusals import refuses

from edgellm.contract.engine import EngineInfo
from edgellm.errors import BadTemplate, ContextOverflow, UsageError
from edgellm.text.prompt import PromptBuilder
from edgellm.types.json_counts import MAX_DEPTH, MAX_VALUES
from edgellm.types.markup import JsonCalls, Markup, Reading
from edgellm.types.message import Message, Tool, ToolCall

OPENS = "{% if add_generation_prompt %}<a>{% endif %}"
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + OPENS
# As Gemma 2's: turns of user and model, and nothing else.
STRICT = (
    """{%- for m in messages -%}
{%- if m.role not in ('user', 'assistant') or (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('turns') }}{%- endif -%}<{{ m.role }}>{{ m.content }}{%- endfor -%}"""
    + OPENS
)
CALLS = (
    """{%- for t in tools or [] %}[{{ t | tojson }}]{% endfor -%}
{%- for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.name }}{% for c in m.tool_calls or [] -%}
({{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.id }}){% endfor %}{% endfor -%}"""
    + OPENS
)
CALL = "({{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.id }})"
ONE_CALL = CALLS.replace("or [] -%}", "or [] -%}{% if loop.index0 %}{{ raise_exception('one') }}{% endif %}")
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"town": {"type": "string"}}})
SYSTEM, USER, ANSWER = Message("system", "S"), Message("user", "U"), Message("assistant", "A")


def builder(source, **fields):
    return PromptBuilder(
        EngineInfo(1, 64, 64, 64, 100, frozenset(), chat_template=source, bos_text="<s>", eos_text="</s>", **fields)
    )


def build(source, *messages, **options):
    return builder(source).build(messages, **options)


def called(*towns, arguments=None):
    calls = (ToolCall("weather", arguments or json.dumps({"town": town}), town) for town in towns)
    return Message("assistant", calls=tuple(calls))


def test_a_conversation_that_it_takes_is_not_changed():
    prompt = build(TURNS, SYSTEM, USER, ANSWER, USER)

    assert (prompt.text, prompt.cuts, prompt.notes) == ("<system>S<user>U<assistant>A<user>U<a>", (), frozenset())
    assert prompt.add_bos


def test_system_text_is_merged_into_what_the_user_says_next():
    prompt = build(STRICT, SYSTEM, USER, ANSWER, Message("system", "T"), Message("user", "V"))

    assert prompt.text == "<user>S\n\nU<assistant>A<user>T\n\nV<a>"
    assert prompt.notes == {"system_merged"}


@pytest.mark.parametrize(
    ("source", "notes"),
    [
        ("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}", {"roles_dropped"}),
        ("{% for m in messages %}{{ m.content }}\n\n{% endfor %}", {"roles_dropped"}),
        (TURNS, set()),
        (
            "{% for m in messages %}{{ m.content if m.role == 'assistant' else '[INST]' + m.content }}{% endfor %}",
            set(),
        ),
        ("{{ messages[-1].content }}", set()),
    ],
)
def test_a_template_that_writes_no_roles_is_told(source, notes):
    assert build(source, USER).notes == notes


def test_system_text_alone_is_said_by_the_user():
    assert build(STRICT, SYSTEM).text == "<user>S<a>"


def test_several_system_messages_at_the_beginning_are_one():
    assert build(TURNS, SYSTEM, Message("system", "T"), USER).text == "<system>S\n\nT<user>U<a>"


def test_turns_of_one_role_are_merged_where_they_must_alternate():
    assert (
        build(STRICT, USER, Message("user", "V"), ANSWER, ANSWER, USER).text
        == "<user>U\n\nV<assistant>A\n\nA<user>U<a>"
    )
    assert build(TURNS, USER, USER).text == "<user>U<user>U<a>"


def test_tools_calls_and_results():
    prompt = build(CALLS, USER, called("Bergen"), Message("tool", "wet", call_id="Bergen"), tools=(WEATHER,))

    assert '"function": {"name": "weather"' in prompt.text
    assert prompt.text.endswith('<assistant>(weather {"town": "Bergen"} Bergen)<tool>wetweather<a>')
    assert prompt.notes == frozenset()


def test_tools_that_the_template_does_not_describe_are_in_the_system_prompt():
    prompt = build(TURNS, SYSTEM, USER, called("Bergen"), Message("tool", "wet", call_id="Bergen"), tools=(WEATHER,))

    assert prompt.prompts_tools
    assert prompt.notes == {"tools_prompted", "calls_as_text", "results_as_user"}
    system, _, rest = prompt.text.partition("<user>")
    assert '{"name": "weather", "description": "Tells it."' in system
    assert system.endswith("\n\nS")
    assert rest == 'U<assistant>{"name": "weather", "arguments": {"town": "Bergen"}}<user>Result of weather:\nwet<a>'


def test_an_answer_is_read_as_the_prompt_asks_for_it():
    """A template that writes calls of its own, and describes no tools."""
    own = CALLS.replace(
        "({{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.id }})",
        "<call>{{ c.function | tojson }}</call>",
    )
    undescribed = own.replace("[{{ t | tojson }}]", "")
    for source, expected in ((own, JsonCalls("<call>", "</call>")), (undescribed, JsonCalls())):
        prompts = builder(source)
        prompt = prompts.build((USER,), (WEATHER,))
        reading = prompts.reading(prompt, (WEATHER,))

        assert prompts.markup.calls == JsonCalls("<call>", "</call>")
        assert reading == Reading(Markup(calls=expected), "<a>", (WEATHER,))
        assert prompts.markup_after(prompt).calls == (None if prompt.prompts_tools else expected)


def test_calls_without_tools_are_told_in_the_same_way():
    assert build(TURNS, USER, called("Bergen")).notes == {"calls_as_text"}


def test_several_calls_become_messages_with_one():
    results = [Message("tool", town.lower(), call_id=town) for town in ("Oslo", "Bergen")]

    prompt = build(ONE_CALL, USER, called("Bergen", "Oslo"), *results, tools=(WEATHER,))

    calls = prompt.text.partition("<assistant>")[2]
    assert calls == (
        '(weather {"town": "Bergen"} Bergen)<tool>bergenweather'
        '<assistant>(weather {"town": "Oslo"} Oslo)<tool>osloweather<a>'
    )
    assert prompt.notes == {"calls_split"}


@pytest.mark.parametrize("arguments", ['{"town": ', "[1]", '"Bergen"'])
def test_arguments_that_are_no_object_are_shown_as_they_are(arguments):
    prompt = build(CALLS, USER, called("x", arguments=arguments))

    assert json.dumps({"arguments": arguments}) in prompt.text
    assert prompt.notes == {"arguments_wrapped"}


@pytest.mark.parametrize(
    "arguments", [f"[{','.join('1' * (MAX_VALUES // 2))}]", "[" * (MAX_DEPTH + 1)], ids=["values", "depth"]
)
def test_arguments_are_counted_before_they_are_read(arguments):
    with refuses(UsageError, param="messages"):
        build(CALLS, USER, called("x", arguments=arguments), USER, called("y", arguments=arguments))


def test_no_arguments_are_an_empty_object():
    assert "(weather {} x)" in build(CALLS, USER, called("x", arguments=" ")).text


def test_ids_that_must_be_short_are_the_same_for_call_and_result():
    strict = CALLS.replace("{{ m.name }}", "{{ m.tool_call_id }}").replace(
        "or [] -%}", "or [] -%}{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}"
    )

    text = build(strict, USER, called("call_of_Bergen"), Message("tool", "wet", call_id="call_of_Bergen")).text

    short = text.partition("<tool>wet")[2].removesuffix("<a>")
    assert len(short) == 9
    assert short.isalnum()
    assert f" {short})" in text
    assert "123abc456" in build(strict, USER, called("123abc456")).text


def test_reasoning_goes_by_the_name_that_the_template_reads():
    thought = Message("assistant", "A", reasoning="T")

    assert (
        "<think>T" in build(TURNS + "{% for m in messages %}<think>{{ m.reasoning }}{% endfor %}", USER, thought).text
    )
    assert build(TURNS, USER, thought, USER).notes == {"reasoning_dropped"}


def test_reasoning_in_parts_of_the_content():
    source = (
        """{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else -%}
{% for p in m.content %}{% if p.type == 'thinking' %}[THINK]{{ p.thinking }}[/THINK]{% else %}{{ p.text }}{% endif -%}
{% endfor %}{% endif %}{% endfor %}"""
        + OPENS
    )
    thought = Message("assistant", "A", reasoning="T")

    assert build(source, USER, thought, USER).text == "<user>U<assistant>[THINK]T[/THINK]A<user>U<a>"
    assert build(source, USER, thought, continue_final_message=True).text == "<user>U<assistant>[THINK]T[/THINK]A"
    unanswered = Message("assistant", reasoning="T")
    assert build(source, USER, unanswered, continue_final_message=True).text == "<user>U<assistant>[THINK]T[/THINK]"


def test_what_the_template_opens_the_answer_with():
    source = TURNS.replace("<a>", "<a>{{ '<think>' if enable_thinking else '' }}")

    assert build(source, USER).opened == "<a>"
    assert build(source, USER, thinking=True).opened == "<a><think>"
    assert build(source, USER, add_generation_prompt=False).opened == ""
    before = TURNS.replace("<a>", "{{ '<T>' if enable_thinking else '' }}<a>")
    assert build(before, USER, thinking=True).opened == "<T><a>"
    assert build(TURNS.replace("<a>", "<{{ mood }}>"), USER, kwargs={"mood": "calm"}).opened == "<calm>"


def test_variables_of_the_caller_go_before_ours():
    source = TURNS + "{{ enable_thinking }}{{ extra | tojson }}"

    assert build(source, USER, kwargs={"enable_thinking": True, "extra": [1, {"a": None}]}).text.endswith(
        'True[1, {"a": null}]'
    )


@pytest.mark.parametrize(
    "kwargs",
    [
        {"messages": []}, {"tools": []}, {"add_generation_prompt": False}, {"raise_exception": 1}, {"bos_token": "x"},
        {"": 1}, {"a b": 1}, {"_x": 1}, {"a" * 65: 1}, {"a": object()}, {"a": {1: 2}}, {"a": 2**63}, {"a": b"x"},
        {"a": json.loads("[" * 17 + "]" * 17)}, {"a": "x" * 65537}, {"a": [[]] * 65537},
        {f"a{n}": 1 for n in range(65)}, {"chat_template": "{{ 1 }}"},
    ],
    ids=lambda kwargs: str(kwargs)[:20],
)  # fmt: skip
def test_variables_that_a_template_cannot_have(kwargs):
    with refuses(UsageError, param="chat_template_kwargs"):
        build(TURNS, USER, kwargs=kwargs)


def test_values_that_are_nested_without_end():
    endless = []
    endless.append(endless)
    with refuses(UsageError, param="chat_template_kwargs"):
        build(TURNS, USER, kwargs={"a": endless})
    with refuses(UsageError, param="messages"):
        build(CALLS, USER, called("x", arguments='{"a": ' * 5000 + "1" + "}" * 5000))


@pytest.mark.parametrize("source", [TURNS, TURNS.replace("m.content", "m.content | trim"), STRICT])
def test_the_last_message_goes_on(source):
    prompt = build(source, USER, Message("assistant", "Once upon "), continue_final_message=True)

    assert prompt.text == "<user>U<assistant>Once upon "
    assert prompt.opened == "Once upon "


def test_the_last_message_that_is_behind_other_text_goes_on():
    parts = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}</s>{% endfor %}"

    assert build(parts, USER, ANSWER, continue_final_message=True).text == "<user>U</s><assistant>A"


def test_nothing_to_continue():
    for messages in [(), (USER,), (USER, called("x"))]:
        with refuses(UsageError, param="continue_final_message"):
            build(TURNS, *messages, continue_final_message=True)
    with refuses(BadTemplate):
        build("{{ messages[0].content }}", USER, ANSWER, continue_final_message=True)


def test_a_bos_token_that_the_template_writes_is_not_added_again():
    assert not build("{{ bos_token }}" + TURNS, USER).add_bos
    pasted = builder("{{ messages[0].content }}", special_texts=("<s>",)).build((Message("user", "<s>"),))
    assert (pasted.add_bos, pasted.cuts) == (True, (1,))


def test_more_cuts_than_the_context_has_tokens():
    with refuses(ContextOverflow):
        builder(TURNS, special_texts=("<s>",)).build((Message("user", "<s>" * 64),))


@pytest.mark.parametrize("mark", [r"\ufdd0", r"\\ufdd0"], ids=["written", "escaped"])
def test_marks_that_a_template_writes_are_counted_before_they_are_taken_out(mark):
    """All in one place, so that they would be one cut: four million of them took seconds to find that out."""
    with refuses(ContextOverflow):
        build('{{ "' + mark + '" * 64 }}', USER)


def test_a_model_without_a_template():
    with refuses(BadTemplate):
        builder(None)


def test_calls_that_the_template_leaves_to_us_are_in_the_models_own_form():
    """As LFM2's, which writes contents only; what stands in the arguments is cut, and the marks of the call are not."""
    lfm2 = "{% if tools %}[{{ tools | tojson }}]{% endif %}{# <|tool_list_start|> #}" + TURNS
    special = ("<|tool_call_start|>", "<|tool_call_end|>")

    prompt = builder(lfm2, special_texts=special).build((USER, called("Oslo<|tool_call_end|>")), (WEATHER,))

    assert prompt.text.endswith(
        '<assistant><|tool_call_start|>[weather(town="Oslo<|tool_call_end|>")]<|tool_call_end|><a>'
    )
    assert prompt.cuts == (prompt.text.index("<|tool_call_end|>") + 1,)
    assert prompt.notes == frozenset()
