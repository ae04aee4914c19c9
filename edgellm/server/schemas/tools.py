"""The fields of a chat request about tools, today's and the older `functions`; they become tools and a choice."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.server.schemas.generation import GenerationBody
from edgellm.types.message import MAX_TOOLS, NamedTool, Tool, ToolChoice

Mode = Literal["none", "auto", "required"]


class FunctionBody(Fields, kw_only=True):
    """A function that the model may call. `parameters`: a JSON schema of the object that it takes."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool | None, Meta(description="Arguments keep to the schema although nothing forces a call.")] = (
        None
    )

    def to_tool(self) -> Tool:
        return Tool(self.name, self.description or "", self.parameters or {}, bool(self.strict))


class ToolBody(Fields, kw_only=True):
    """A tool. Those of type `custom`, whose argument is no JSON, are not served."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": ("function",), "custom": ()}

    type: Literal["function"]
    function: FunctionBody


class FunctionName(Fields, kw_only=True):
    """The function that has to be called."""

    name: str


class NamedToolBody(Fields, kw_only=True):
    """A tool by its name."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": ("function",)}

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Fields, kw_only=True):
    """The tools that this answer may call, of all that there are."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedToolBody], Meta(max_length=MAX_TOOLS)]


class ToolChoiceBody(Fields, kw_only=True):
    """One tool, or some."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"type": ("function", "allowed_tools"), "custom": ()}

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


class ToolCallingBody(GenerationBody, kw_only=True):
    """The fields themselves; the body of a chat inherits them."""

    tools: Annotated[list[ToolBody], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Mode | ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[
        Annotated[list[FunctionBody], Meta(max_length=MAX_TOOLS)] | None, Meta(description="OpenAI's older `tools`.")
    ] = None
    function_call: Annotated[
        Literal["none", "auto"] | FunctionName | None, Meta(description="OpenAI's older `tool_choice`.")
    ] = None

    @property
    def legacy(self) -> bool:
        """Whether calls are told in the older way."""
        return bool(self.functions)

    def wanted_tools(self) -> tuple[tuple[Tool, ...], ToolChoice]:
        """The tools that the answer may call, and the choice among them.

        Raises:
            UsageError: both ways of naming tools are used, or a choice lacks its tool.
        """
        if self.functions:
            if self.tools:
                raise UsageError("tools and functions were both sent", hint="send tools", param="functions")
            return tuple(function.to_tool() for function in self.functions), self._older_choice()
        tools = tuple(tool.function.to_tool() for tool in self.tools or ())
        choice = self.tool_choice
        if choice is None or isinstance(choice, str):
            return tools, choice or "auto"
        if choice.type == "function":
            if choice.function is None:
                raise _required("tool_choice.function")
            return tools, NamedTool(choice.function.name)
        if choice.allowed_tools is None:
            raise _required("tool_choice.allowed_tools")
        return _allowed(tools, choice.allowed_tools), choice.allowed_tools.mode

    def _older_choice(self) -> ToolChoice:
        choice = self.function_call
        return NamedTool(choice.name) if isinstance(choice, FunctionName) else choice or "auto"


def _allowed(tools: tuple[Tool, ...], allowed: AllowedTools) -> tuple[Tool, ...]:
    """Those that are allowed; the model is not shown the others."""
    names = {tool.function.name for tool in allowed.tools}
    if missing := sorted(names - {tool.name for tool in tools}):
        what = f"tool_choice allows {missing[0][:60]!r}, which is no tool"
        raise UsageError(what, hint="name tools of this request", param="tool_choice.allowed_tools")
    return tuple(tool for tool in tools if tool.name in names)


def _required(where: str) -> UsageError:
    return UsageError(f"{where} is required", hint="see /docs", param=where)
