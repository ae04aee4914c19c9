"""The functions that an app lets a model call, and its calls of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from edgellm.errors import UsageError
from edgellm.sdk.function_tool import FunctionTool
from edgellm.sdk.json_type import mismatch
from edgellm.types.message import MAX_TOOLS, TOOL_CHOICES, AnyTool, NamedTool, Tool, ToolCall, ToolChoice
from edgellm.types.tool_use import ToolResult

T = TypeVar("T")


class _Described(msgspec.Struct):
    """A tool as OpenAI's clients send it."""

    function: Tool


class Toolbox:
    """What goes wrong in a call is told to the model, which may try again. Nothing else is ever called.

    Raises:
        UsageError: two functions of one name; what `FunctionTool` raises.
    """

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        own = [FunctionTool(function) for function in _several(functions)]
        self.tools = tools_of([function.tool for function in own])
        self._functions = {function.tool.name: function for function in own}

    @property
    def coroutines(self) -> list[str]:
        """Names of those that only a coroutine can wait for."""
        return [name for name, function in self._functions.items() if function.is_async]

    def call(self, call: ToolCall) -> ToolResult:
        try:
            function, arguments = self._bound(call)
            return ToolResult(call, _as_text(function.function(**arguments)))
        except Exception as error:  # whatever the app's functions raise
            return _failure(call, error)

    async def acall(self, call: ToolCall) -> ToolResult:
        """A function that is no coroutine runs in a thread, so that the event loop goes on."""
        try:
            function, arguments = self._bound(call)
            if function.is_async:
                return ToolResult(call, _as_text(await function.function(**arguments)))
            return ToolResult(call, _as_text(await asyncio.to_thread(function.function, **arguments)))
        except Exception as error:  # whatever the app's functions raise
            return _failure(call, error)

    def _bound(self, call: ToolCall) -> tuple[FunctionTool, dict[str, Any]]:
        if call.name not in self._functions:
            raise LookupError(f"there is no tool {call.name[:60]!r}; tools are: {', '.join(self._functions)}")
        function = self._functions[call.name]
        return function, function.arguments(call.arguments)


def tools_of(tools: Sequence[AnyTool] | None) -> tuple[Tool, ...]:
    """What a model is told of tools, of functions, and of dictionaries as OpenAI's clients send them; None = of none.

    Raises:
        UsageError: they are too many, two have one name, or one is none of these.
    """
    described = tuple(map(_tool, _several(() if tools is None else tools)))
    if len(described) > MAX_TOOLS:
        raise UsageError(f"{len(described)} tools are too many", hint=f"{MAX_TOOLS} are allowed", param="tools")
    names = [tool.name for tool in described]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two tools are called {twice[:60]!r}", hint="rename one", param="tools")
    return described


def _several(tools: Sequence[T]) -> Sequence[T]:
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        hint = "pass a list, with a single one, too: tools=[weather]"
        raise UsageError(f"tools={tools!r:.60} is no list of tools", hint=hint, param="tools")
    return tools


def check_choice(choice: ToolChoice, tools: Sequence[Tool]) -> None:
    """
    Raises:
        UsageError: it is none, or cannot be met.
    """
    names = [tool.name for tool in tools]
    if isinstance(choice, NamedTool):
        if choice.name not in names:
            hint = f"tools are: {', '.join(names) or 'none'}"
            raise UsageError(
                f"tool_choice names {choice.name[:60]!r}, which is no tool", hint=hint, param="tool_choice"
            )
    elif choice not in TOOL_CHOICES:
        hint = f"one of: {', '.join(TOOL_CHOICES)}, or a NamedTool"
        raise UsageError(f"tool_choice={choice!r}"[:80] + " is no choice", hint=hint, param="tool_choice")
    elif choice == "required" and not tools:
        raise UsageError("a tool has to be called, and there are none", hint="send tools", param="tool_choice")


def _tool(tool: AnyTool) -> Tool:
    if isinstance(tool, Tool):
        return tool
    if not isinstance(tool, Mapping):
        return FunctionTool(tool).tool
    try:
        return msgspec.convert(tool, _Described).function
    except msgspec.ValidationError as error:
        hint = '{"type": "function", "function": {"name": "...", "parameters": {...}}}, or pass a Python function'
        raise UsageError(f"this is no tool: {error}", hint=hint, param="tools") from None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=_plain).decode()


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # pydantic's
        return value.model_dump(mode="json")
    raise TypeError(f"its result, of type {type(value).__name__}, cannot be written as JSON")


def _failure(call: ToolCall, error: Exception) -> ToolResult:
    told = {"error": f"{type(error).__name__}: {mismatch(error)}"}
    return ToolResult(call, msgspec.json.encode(told).decode(), failed=True)
