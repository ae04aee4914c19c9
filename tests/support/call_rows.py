"""A row of every shape in which models mark calls."""

from __future__ import annotations

from edgellm.types.markup import (
    AttributeCalls,
    CallMarkup,
    HarmonyCalls,
    JsonCalls,
    LiteralCalls,
    NamedCalls,
    NestedCalls,
    RecipientCalls,
    TaggedCalls,
)

ROWS: dict[str, CallMarkup] = {
    "hermes": JsonCalls("<tool_call>\n", "\n</tool_call>"),
    "bare": JsonCalls(arguments_key="parameters"),
    "array": JsonCalls(section_open="[TOOL_CALLS]", array=True, id_key="id"),
    "wrapper": JsonCalls("<tool_call>\n", "\n</tool_call>", wrapper="function"),
    "key": JsonCalls("<call>", "</call>", name_is_key=True),
    "named": NamedCalls("[TOOL_CALLS]", "[ARGS]", id_open="[CALL_ID]"),
    "section": NamedCalls("<begin>function<sep>", "\n```json\n", "\n```<end_call>", "<calls>", "</calls>"),
    "tagged": TaggedCalls(
        "<tool_call>\n<function=", ">\n", "<parameter=", ">\n", "\n</parameter>\n", close="</function>\n</tool_call>"
    ),
    "keys": TaggedCalls(
        "<tool_call>",
        "\n",
        "<arg_key>",
        "</arg_key>\n",
        "</arg_value>\n",
        value_open="<arg_value>",
        close="</tool_call>",
    ),
    "python": LiteralCalls("<|start|>", "[", "]<|end|>", brackets="()", assign="=", quote='"', listed=True),
    "braces": LiteralCalls("<|tool_call>", "call:", "<tool_call|>", brackets="{}", assign=":", quote='<|"|>'),
    "attributes": AttributeCalls(
        '<function name="', head_close=">", close="</function>", key_open='<param name="', value_close="</param>"
    ),
    "marked-texts": AttributeCalls(
        open='<invoke name="',
        head_close=">",
        close="</invoke>",
        key_open='<parameter name="',
        value_close="</parameter>",
        section_open="<calls>",
        section_close="</calls>",
        text_attribute='string="true"',
    ),
    "nested": NestedCalls("<m><tool_call>", "<m></tool_call>", '<m><invoke name="', '">', "<m></invoke>", "<m><"),
    "messages": HarmonyCalls(),
    "users": HarmonyCalls(
        channel="",
        constrain="",
        end="<|eom|>",
        call="",
        answer_end="<|eot|>",
        thinker="self",
        body=AttributeCalls('<invoke name="', ">", "</invoke>", '<param name="', "</param>", "<calls>", "</calls>"),
    ),
    "recipients": RecipientCalls(">>>", "all"),
}
