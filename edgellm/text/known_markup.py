"""Markup of the families whose templates do not show all of it, recognized by what stands in the template."""

from __future__ import annotations

from typing import NamedTuple

from edgellm.types.markup import (
    AnswerMarkup,
    AttributeCalls,
    CallMarkup,
    HarmonyCalls,
    JsonCalls,
    LiteralCalls,
    Markup,
    NamedCalls,
    NestedCalls,
    ReasoningMarkup,
    RecipientCalls,
    TaggedCalls,
)

THINK = ReasoningMarkup("<think>", "</think>")


class Family(NamedTuple):
    signs: tuple[str, ...]  # all of them stand in its templates
    markup: Markup


def _family(
    *signs: str,
    calls: CallMarkup | None,
    reasoning: ReasoningMarkup | None = None,
    answer: AnswerMarkup | None = None,
) -> Family:
    return Family(signs, Markup(reasoning=reasoning, calls=calls, answer=answer))


def _gemma4() -> Family:
    calls = LiteralCalls("<|tool_call>", "call:", "<tool_call|>", brackets="{}", assign=":", quote='<|"|>')
    reasoning = ReasoningMarkup("<|channel>thought", "<channel|>", again=True)
    return _family(
        "<|tool_call>call:", calls=calls, reasoning=reasoning, answer=AnswerMarkup("<|channel>", "<channel|>")
    )


def _function_gemma() -> Family:
    calls = LiteralCalls(
        "<start_function_call>", "call:", "<end_function_call>", brackets="{}", assign=":", quote="<escape>"
    )
    return _family("<start_function_call>", calls=calls)


def _lfm2(*signs: str, reasoning: ReasoningMarkup | None = None) -> Family:
    calls = LiteralCalls(
        "<|tool_call_start|>", "[", "]<|tool_call_end|>", brackets="()", assign="=", quote='"', listed=True
    )
    return _family(*signs, calls=calls, reasoning=reasoning)


def _harmony(*signs: str, space: str = "") -> Family:
    reasoning = ReasoningMarkup(f"<|channel|>{space}analysis<|message|>", "<|end|>")
    return _family(*signs, calls=HarmonyCalls(space=space), reasoning=reasoning)


def _muse() -> Family:
    body = AttributeCalls(
        open='<atem:invoke name="',
        head_close=">",
        close="</atem:invoke>",
        key_open='<atem:parameter name="',
        value_close="</atem:parameter>",
        section_open="<atem:function_calls>",
        section_close="</atem:function_calls>",
    )
    calls = HarmonyCalls(
        channel="", constrain="", end="<|eom|>", call="", answer_end="<|eot|>", thinker="self", body=body
    )
    return _family(
        "<atem:function_calls>", "<|eom|>", calls=calls, reasoning=ReasoningMarkup(" to=self<|message|>", "<|eom|>")
    )


def _gigachat(*signs: str, before: str) -> Family:
    return _family("<|role_sep|>", "<|message_sep|>", *signs, calls=JsonCalls(open=before))


def _ling3() -> Family:
    calls = TaggedCalls(
        open="<tool_call>",
        after_name="",
        key_open="<arg_key>",
        key_close="</arg_key>",
        value_open="<arg_value>",
        value_close="</arg_value>",
        close="</tool_call>",
    )
    reasoning = ReasoningMarkup("<think>", "</think>", ended_by_call=True)
    return _family(
        "<role>ASSISTANT</role>",
        "<arg_key>",
        calls=calls,
        reasoning=reasoning,
        answer=AnswerMarkup("", end="<|role_end|>"),
    )


def _mistral_named(*signs: str, id_open: str = "", thinks: bool = False) -> Family:
    calls = NamedCalls("[TOOL_CALLS]", "[ARGS]", id_open=id_open)
    reasoning = ReasoningMarkup("[THINK]", "[/THINK]") if thinks else None
    return _family("[TOOL_CALLS]", "[ARGS]", *signs, calls=calls, reasoning=reasoning)


def _dsml(section: str) -> Family:
    calls = AttributeCalls(
        open='<｜DSML｜invoke name="',
        head_close=">",
        close="</｜DSML｜invoke>",
        key_open='<｜DSML｜parameter name="',
        value_close="</｜DSML｜parameter>",
        section_open=f"<｜DSML｜{section}>",
        section_close=f"</｜DSML｜{section}>",
        text_attribute='string="true"',
    )
    return _family("DSML", section, calls=calls, reasoning=ReasoningMarkup("<think>", "</think>", ended_by_call=True))


def _deepseek(*signs: str, before_name: str, after_name: str, close: str) -> Family:
    calls = NamedCalls(
        open=f"<｜tool▁call▁begin｜>{before_name}",
        after_name=after_name,
        close=f"{close}<｜tool▁call▁end｜>",
        section_open="<｜tool▁calls▁begin｜>",
        section_close="<｜tool▁calls▁end｜>",
    )
    return _family("<｜tool▁calls▁begin｜>", *signs, calls=calls, reasoning=THINK)


def _kimi_k2() -> Family:
    calls = NamedCalls(
        open="<|tool_call_begin|>functions.",
        id_open=":",
        after_name="<|tool_call_argument_begin|>",
        close="<|tool_call_end|>",
        section_open="<|tool_calls_section_begin|>",
        section_close="<|tool_calls_section_end|>",
    )
    reasoning = ReasoningMarkup("<think>", "</think>", ended_by_call=True)
    return _family("<|tool_calls_section_begin|>", "<|tool_call_begin|>", calls=calls, reasoning=reasoning)


def _kimi_k3() -> Family:
    calls = AttributeCalls(
        open='<|open|>call tool="',
        head_close="<|sep|>",
        close="<|close|>call<|sep|>",
        key_open='<|open|>argument key="',
        value_close="<|close|>argument<|sep|>",
        section_open="<|open|>tools<|sep|>",
        section_close="<|close|>tools<|sep|>",
        text_attribute='type="string"',
    )
    reasoning = ReasoningMarkup("<|open|>think<|sep|>", "<|close|>think<|sep|>")
    answer = AnswerMarkup("<|open|>response<|sep|>", "<|close|>response<|sep|>", end="<|close|>message<|sep|>")
    return _family("<|open|>", "<|close|>", "<|end_of_msg|>", calls=calls, reasoning=reasoning, answer=answer)


def _minicpm5() -> Family:
    calls = AttributeCalls(
        open='<function name="', head_close=">", close="</function>", key_open='<param name="', value_close="</param>"
    )
    return _family('<function name="', '<param name="', calls=calls, reasoning=THINK)


def _minimax_m3() -> Family:
    space = "]<]minimax[>["
    calls = NestedCalls(
        section_open=f"{space}<tool_call>",
        section_close=f"{space}</tool_call>",
        open=f'{space}<invoke name="',
        after_name='">',
        close=f"{space}</invoke>",
        element=f"{space}<",
    )
    return _family(space, calls=calls, reasoning=ReasoningMarkup("<mm:think>", "</mm:think>"))


def _cohere(sign: str) -> Family:
    calls = JsonCalls(
        section_open="<|START_ACTION|>",
        section_close="<|END_ACTION|>",
        array=True,
        name_key="tool_name",
        arguments_key="parameters",
        id_key="tool_call_id",
    )
    reasoning = ReasoningMarkup("<|START_THINKING|>", "<|END_THINKING|>")
    answer = AnswerMarkup(f"<|START_{sign}|>", f"<|END_{sign}|>")
    return _family("<|START_ACTION|>", f"<|START_{sign}|>", calls=calls, reasoning=reasoning, answer=answer)


def _command_r_plus() -> Family:
    calls = JsonCalls(
        section_open="Action:\n```json\n",
        section_close="```",
        array=True,
        name_key="tool_name",
        arguments_key="parameters",
    )
    return _family(
        "<|CHATBOT_TOKEN|>", "Action:", calls=calls, answer=AnswerMarkup("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>")
    )


FAMILIES = (
    _harmony("chat_format=llm-jp-harmony-v1", space=" "),
    _harmony("<|channel|>", "<|message|>"),
    _muse(),
    _gemma4(),
    _function_gemma(),
    _family("xml_tools", calls=JsonCalls("<tool_call>", "</tool_call>"), reasoning=THINK),  # SmolLM3
    _lfm2("<|tool_call_start|>", "<think>", reasoning=THINK),
    _lfm2("<|tool_list_start|>"),
    _lfm2("List of tools: [", "<|im_start|>"),
    _mistral_named("[CALL_ID]", id_open="[CALL_ID]"),
    _mistral_named("[THINK]", thinks=True),
    _mistral_named(),
    _family("[TOOL_CALLS]", calls=JsonCalls(section_open="[TOOL_CALLS]", array=True, id_key="id")),
    _dsml("function_calls"),
    _dsml("tool_calls"),
    _deepseek("```json", before_name="function<｜tool▁sep｜>", after_name="\n```json\n", close="```"),
    _deepseek(before_name="", after_name="<｜tool▁sep｜>", close=""),
    _kimi_k2(),
    _kimi_k3(),
    _minicpm5(),
    _minimax_m3(),
    _gigachat("<|function_call|>", before="<|function_call|>"),
    _gigachat(before="<|message_sep|>\n\nfunction call<|role_sep|>\n"),
    _ling3(),
    _cohere("TEXT"),
    _cohere("RESPONSE"),
    _command_r_plus(),
    _family(">>>all", calls=RecipientCalls(">>>", "all")),
    _family(" functools[", calls=JsonCalls(section_open=" functools", array=True)),
    _family(
        "respond only with <|tool_call|>",
        calls=JsonCalls(section_open="<|tool_call|>", array=True),
        reasoning=THINK,
        answer=AnswerMarkup("<response>", "</response>"),
    ),
    _family(  # Phi-4-mini
        "<|tool|>",
        "<|/tool|>",
        calls=JsonCalls(section_open="<|tool_call|>", section_close="<|/tool_call|>", array=True),
        reasoning=THINK,
    ),
)


def known_markup(template: str) -> Markup | None:
    """Of a template's source; None where no family's signs stand in it."""
    for family in FAMILIES:
        if all(sign in template for sign in family.signs):
            return family.markup
    return None
