"""The lists of fields of OpenAI's Responses are complete: a new release of the client with a new one fails here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
from openai.types import responses, shared_params
from openai.types.responses import (
    input_token_count_params,
    response_compact_params,
    response_create_params,
    response_input_item_param,
    response_text_config_param,
    tool_choice_types_param,
)
from support.client_types import client_fields

from edgellm.server.dialects.responses.body import (
    ResponsesBody,
    ResponsesCountBody,
    ResponsesFormat,
    ResponsesText,
    ResponsesThinking,
)
from edgellm.server.dialects.responses.compaction import ResponsesCompactBody
from edgellm.server.dialects.responses.items import HOSTED_ITEMS, ResponsesItem, ResponsesPart
from edgellm.server.dialects.responses.tools import (
    OWN_TOOLS,
    ResponsesInputFormat,
    ResponsesNamedTool,
    ResponsesTool,
    ResponsesToolChoice,
)
from edgellm.server.schemas.fields import Fields, supported

TYPES: dict[type[Fields], tuple[Any, ...]] = {
    ResponsesBody: (
        response_create_params.ResponseCreateParamsNonStreaming,
        response_create_params.ResponseCreateParamsStreaming,
    ),
    ResponsesCountBody: (input_token_count_params.InputTokenCountParams,),
    ResponsesCompactBody: (response_compact_params.ResponseCompactParams,),
    ResponsesText: (response_text_config_param.ResponseTextConfigParam,),
    ResponsesFormat: (responses.ResponseFormatTextJSONSchemaConfigParam,),
    ResponsesThinking: (shared_params.Reasoning,),
    ResponsesItem: (
        responses.EasyInputMessageParam,
        response_input_item_param.Message,
        responses.ResponseOutputMessageParam,
        responses.ResponseReasoningItemParam,
        responses.ResponseFunctionToolCallParam,
        response_input_item_param.FunctionCallOutput,
        responses.ResponseCustomToolCallParam,
        responses.ResponseCustomToolCallOutputParam,
        responses.ResponseCompactionItemParamParam,
        response_input_item_param.ItemReference,
    ),
    ResponsesPart: (
        responses.ResponseInputTextParam,
        responses.ResponseInputImageParam,
        responses.ResponseInputFileParam,
        responses.ResponseOutputTextParam,
        responses.ResponseOutputRefusalParam,
    ),
    ResponsesTool: (responses.FunctionToolParam, responses.CustomToolParam),
    ResponsesInputFormat: (shared_params.custom_tool_input_format.Grammar,),
    ResponsesToolChoice: (
        responses.ToolChoiceAllowedParam,
        responses.ToolChoiceFunctionParam,
        responses.ToolChoiceCustomParam,
        responses.ToolChoiceMcpParam,
    ),
    ResponsesNamedTool: (responses.ToolChoiceMcpParam,),
}


@pytest.mark.parametrize("schema", TYPES, ids=lambda schema: schema.__name__)
def test_each_field_of_the_client_is_in_a_list(schema: type[Fields]) -> None:
    names = set(client_fields(TYPES[schema]))

    assert names
    assert names - {*supported(schema), *schema.NOT_SUPPORTED, *schema.IGNORED} == set()


def test_each_type_of_item_is_served_or_named() -> None:
    types = {kind for item in get_args(response_input_item_param.ResponseInputItemParam) for kind in _kinds(item)}

    assert "web_search_call" in types
    assert types - HOSTED_ITEMS - {*supported(ResponsesItem)["type"].choices} == set()


def test_no_tool_that_runs_at_openai_s_can_be_forced() -> None:
    assert not _kinds(tool_choice_types_param.ToolChoiceTypesParam) & OWN_TOOLS


def _kinds(type_: Any) -> set[str]:
    return set(_texts(get_type_hints(type_)["type"]))


def _texts(annotation: Any) -> Iterator[str]:
    """Those of all literals in it."""
    for argument in get_args(annotation):
        if isinstance(argument, str):
            yield argument
        else:
            yield from _texts(argument)
