"""The fields of a request about tools. Those that run at OpenAI's are accepted, and the model is not shown them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.server.schemas.tools import Mode, required
from edgellm.types.message import MAX_TOOLS, NamedTool, TextInput, Tool, ToolChoice

OWN_TOOLS = frozenset({"function", "custom"})  # types that the model is shown


class ResponsesInputFormat(Fields, kw_only=True):
    """Of the text that a custom tool takes; `definition` is what it matches as a whole."""

    type: Literal["text", "grammar"]
    definition: str | None = None
    syntax: Literal["lark", "regex"] | None = None


class ResponsesTool(Fields, kw_only=True):
    """A function that the model may call, or, of type `custom`, what it may call with a text."""

    IGNORED = ("allowed_callers", "async", "defer_loading", "output_schema")

    type: Literal["function", "custom"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool | None, Meta(description="Arguments keep to the schema although nothing forces a call.")] = (
        None
    )
    format: ResponsesInputFormat | None = None

    def to_tool(self, where: str) -> Tool:
        """
        Raises:
            UsageError: something is missing, or out of bounds.
        """
        if self.type == "function":
            return Tool(self.name, self.description or "", self.parameters or {}, bool(self.strict))
        text = TextInput()
        if self.format is not None and self.format.type == "grammar":
            if self.format.definition is None or self.format.syntax is None:
                raise required(f"{where}.format.{'definition' if self.format.definition is None else 'syntax'}")
            text = TextInput(self.format.definition, self.format.syntax)
        return Tool(self.name, self.description or "", input=text)


class ResponsesNamedTool(Fields, kw_only=True):
    """A tool by its name. Those that run at OpenAI's may be among them."""

    IGNORED = ("server_label",)

    type: str
    name: str | None = None


class ResponsesToolChoice(Fields, kw_only=True):
    """One tool, or some."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "type": ("function", "custom", "allowed_tools"),
        "server_label": (),
    }

    type: Literal["function", "custom", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[ResponsesNamedTool], Meta(max_length=MAX_TOOLS)] | None = None


def wanted_tools(
    tools: tuple[Tool, ...], choice: Mode | ResponsesToolChoice | None
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools that the answer may call, and the choice among them.

    Raises:
        UsageError: a choice lacks its tool, or allows what is no tool.
    """
    if choice is None or isinstance(choice, str):
        return tools, choice or "auto"
    if choice.type != "allowed_tools":
        if choice.name is None:
            raise required("tool_choice.name")
        return tools, NamedTool(choice.name)
    if choice.tools is None:
        raise required("tool_choice.tools")
    return _allowed(tools, choice.tools), choice.mode or "auto"


def _allowed(tools: tuple[Tool, ...], allowed: list[ResponsesNamedTool]) -> tuple[Tool, ...]:
    """Those that are allowed; the model is not shown the others."""
    names = {tool.name for tool in allowed if tool.type in OWN_TOOLS}
    if missing := sorted(str(name) for name in names - {tool.name for tool in tools}):
        what = f"tool_choice allows {missing[0][:60]!r}, which is no tool"
        raise UsageError(what, hint="name tools of this request", param="tool_choice.tools")
    return tuple(tool for tool in tools if tool.name in names)
