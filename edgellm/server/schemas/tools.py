"""The fields of a chat request about tools, today's and the older `functions`; they become tools and a choice."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields
from edgellm.server.schemas.generation import GenerationBody
from edgellm.types.message import MAX_TOOLS, NamedTool, TextInput, Tool, ToolChoice

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


class InputGrammar(Fields, kw_only=True):
    """What the text matches as a whole, in the syntax of Rust's regular expressions, or in Lark without recursion."""

    definition: str
    syntax: Literal["lark", "regex"]


class InputFormat(Fields, kw_only=True):
    """Of a text; `text` is any."""

    type: Literal["text", "grammar"]
    grammar: InputGrammar | None = None


class CustomBody(Fields, kw_only=True):
    """What the model may call with a text."""

    name: str
    description: str | None = None
    format: InputFormat | None = None

    def to_tool(self, where: str) -> Tool:
        text = TextInput()
        if self.format is not None and self.format.type == "grammar":
            grammar = self.format.grammar
            if grammar is None:
                raise required(f"{where}.format.grammar")
            text = TextInput(grammar.definition, grammar.syntax)
        return Tool(self.name, self.description or "", input=text)


class ToolBody(Fields, kw_only=True):
    """A function, or what takes a text."""

    type: Literal["function", "custom"]
    function: FunctionBody | None = None
    custom: CustomBody | None = None

    def to_tool(self, where: str) -> Tool:
        if self.type == "function" and self.function is not None:
            return self.function.to_tool()
        if self.type == "custom" and self.custom is not None:
            return self.custom.to_tool(f"{where}.custom")
        raise required(f"{where}.{self.type}")


class ToolName(Fields, kw_only=True):
    name: str


class NamedToolBody(Fields, kw_only=True):
    """A tool by its name."""

    type: Literal["function", "custom"]
    function: ToolName | None = None
    custom: ToolName | None = None


class AllowedTools(Fields, kw_only=True):
    """The tools that this answer may call, of all that there are."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedToolBody], Meta(max_length=MAX_TOOLS)]


class ToolChoiceBody(Fields, kw_only=True):
    """One tool, or some."""

    type: Literal["function", "custom", "allowed_tools"]
    function: ToolName | None = None
    custom: ToolName | None = None
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
        Literal["none", "auto"] | ToolName | None, Meta(description="OpenAI's older `tool_choice`.")
    ] = None

    @property
    def legacy(self) -> bool:
        """Whether calls are told in the older way."""
        return bool(self.functions)

    @property
    def custom_tools(self) -> frozenset[str]:
        """Names of the tools that take a text."""
        return frozenset(tool.custom.name for tool in self.tools or () if tool.type == "custom" and tool.custom)

    def wanted_tools(self) -> tuple[tuple[Tool, ...], ToolChoice]:
        """The tools that the answer may call, and the choice among them.

        Raises:
            UsageError: both ways of naming tools are used, or a choice lacks its tool.
        """
        if self.functions:
            if self.tools:
                raise UsageError("tools and functions were both sent", hint="send tools", param="functions")
            return tuple(function.to_tool() for function in self.functions), self._older_choice()
        tools = tuple(tool.to_tool(f"tools[{index}]") for index, tool in enumerate(self.tools or ()))
        choice = self.tool_choice
        if choice is None or isinstance(choice, str):
            return tools, choice or "auto"
        if choice.type != "allowed_tools":
            return tools, NamedTool(_name(choice, "tool_choice"))
        if choice.allowed_tools is None:
            raise required("tool_choice.allowed_tools")
        return _allowed(tools, choice.allowed_tools), choice.allowed_tools.mode

    def _older_choice(self) -> ToolChoice:
        choice = self.function_call
        return NamedTool(choice.name) if isinstance(choice, ToolName) else choice or "auto"


def _allowed(tools: tuple[Tool, ...], allowed: AllowedTools) -> tuple[Tool, ...]:
    """Those that are allowed; the model is not shown the others."""
    where = "tool_choice.allowed_tools"
    names = {_name(tool, f"{where}.tools[{index}]") for index, tool in enumerate(allowed.tools)}
    if missing := sorted(names - {tool.name for tool in tools}):
        what = f"tool_choice allows {missing[0][:60]!r}, which is no tool"
        raise UsageError(what, hint="name tools of this request", param=where)
    return tuple(tool for tool in tools if tool.name in names)


def _name(tool: NamedToolBody | ToolChoiceBody, where: str) -> str:
    named = tool.custom if tool.type == "custom" else tool.function
    if named is None:
        raise required(f"{where}.{tool.type}")
    return named.name


def required(where: str) -> UsageError:
    return UsageError(f"{where} is required", hint="see /docs", param=where)
