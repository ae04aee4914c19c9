"""Tools in a body of Anthropic's, and the choice among them.

Those that Anthropic hosts, or that need pictures, are not shown to the model: clients name them by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from edgellm.errors import UnsupportedField, UsageError
from edgellm.server.dialects.anthropic.client_tools import client_tool
from edgellm.server.schemas.fields import Fields, shortened
from edgellm.types.message import NamedTool, Tool, ToolChoice

CUSTOM = "custom"
_CHOICES: dict[str, ToolChoice] = {"auto": "auto", "any": "required", "none": "none"}


class AnthropicTool(Fields, kw_only=True):
    """A tool, whose arguments keep to `input_schema` where it is `strict`. What only hosted tools have is ignored."""

    IGNORED = (
        "allowed_callers",
        "allowed_domains",
        "blocked_domains",
        "cache_control",
        "caching",
        "citations",
        "configs",
        "default_config",
        "defer_loading",
        "display_height_px",
        "display_number",
        "display_width_px",
        "eager_input_streaming",
        "enable_zoom",
        "input_examples",
        "max_characters",
        "max_content_tokens",
        "max_tokens",
        "max_uses",
        "mcp_server_name",
        "model",
        "response_inclusion",
        "tools",
        "url_sources",
        "use_cache",
        "user_location",
    )

    type: Annotated[
        str | None, Meta(description="`custom` unless given; bash_*, text_editor_* and memory_* need no schema.")
    ] = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def is_hosted(self) -> bool:
        """Whether nobody here, and no client, can do what it does."""
        return self.type not in (None, CUSTOM) and client_tool(self.type or "") is None

    def to_tool(self, where: str) -> Tool:
        """Of one that is not hosted.

        Raises:
            UsageError: a custom one lacks its name or schema.
        """
        usual = client_tool(self.type or "")
        if usual is not None:
            name, description, parameters = usual
            return Tool(self.name or name, self.description or description, parameters, bool(self.strict))
        if self.name is None:
            raise _required(f"{where}.name")
        if self.input_schema is None:
            raise _required(f"{where}.input_schema")
        return Tool(self.name, self.description or "", self.input_schema, bool(self.strict))


class AnthropicToolChoice(Fields, kw_only=True):
    """`any`: at least one. `name`: where one has to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def to_choice(self, tools: Sequence[AnthropicTool]) -> ToolChoice:
        """
        Raises:
            UnsupportedField: only a hosted tool would do; UsageError: the tool is not named.
        """
        if self.type == "tool":
            if self.name is None:
                raise _required("tool_choice.name")
            if any(tool.is_hosted and tool.name == self.name for tool in tools):
                raise _hosted(f"tool_choice.name: {shortened(self.name)} is a tool", "tool_choice.name")
            return NamedTool(self.name)
        if self.type == "any" and tools and all(tool.is_hosted for tool in tools):
            raise _hosted("tool_choice.type: 'any' leaves only tools", "tool_choice.type")
        return _CHOICES[self.type]


def _hosted(what: str, param: str) -> UnsupportedField:
    return UnsupportedField(f"{what} that this server does not have", hint="send tools of your own", param=param)


def _required(where: str) -> UsageError:
    return UsageError(f"{where} is required", hint="see /docs", param=where)
