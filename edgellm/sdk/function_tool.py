"""A function of the app as a tool: what a model is told of it, and a call of it with the model's arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import msgspec

from edgellm.errors import UsageError
from edgellm.sdk.json_type import JsonType, is_pydantics, json_type
from edgellm.types.message import Tool

_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_PLAIN = (str, int, float, bool, type(None))
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class FunctionTool:
    """Its name, its docstring and the types of its parameters are what a model is told.

    A text in a parameter's annotation describes it: `city: Annotated[str, "in English"]`.

    Raises:
        UsageError: a parameter has no annotation, a type without a JSON schema, or no name.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        name = getattr(function, "__name__", "")
        if not name and not callable(function):
            hint = "pass functions, methods, `Tool`s, or dictionaries as OpenAI's clients send them"
            raise UsageError(f"{function!r:.60} is no tool", hint=hint, param="tools")
        if not callable(function) or not _NAME.fullmatch(name):
            hint = "pass functions and methods; give a lambda or a partial a name with `def`"
            raise UsageError(f"{name or function!r} is not the name of a function", hint=hint, param="tools")
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self._arguments = _arguments_of(function, name)
        self.tool = Tool(name, inspect.getdoc(function) or "", _shown(self._arguments.schema))

    def arguments(self, text: str) -> dict[str, Any]:
        """Keyword arguments of the JSON that a model wrote; none that it did not write.

        Raises:
            ValueError: it is no JSON, or an argument is missing, unknown or of another type.
        """
        text = text.strip() or "{}"
        values = self._arguments.read(text)
        given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {name: getattr(values, name) for name in given}


def _arguments_of(function: Callable[..., Any], name: str) -> JsonType[Any]:
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise UsageError(f"the signature of {name} cannot be read: {error}", param="tools") from None
    for parameter in parameters:
        if parameter.kind not in _NAMED or parameter.annotation is parameter.empty:
            what = "is not passed by name" if parameter.kind not in _NAMED else "has no annotation"
            hint = "write tools as `def weather(city: str, days: int = 1)`"
            raise UsageError(f"parameter {parameter} of {name} {what}", hint=hint, param="tools")
    try:
        return json_type(_struct(name, list(parameters), function.__module__))
    except UsageError as error:
        raise UsageError(f"{name} cannot be a tool: {error.message}", hint=error.hint, param="tools") from None


def _struct(name: str, parameters: list[inspect.Parameter], module: str) -> Any:
    """A default that is not plain JSON is stood in for: the function fills in its own."""
    fields: dict[str, tuple[Any, Any]] = {one.name: (_described(one.annotation), one.default) for one in parameters}
    if any(is_pydantics(parameter.annotation) for parameter in parameters):
        import pydantic

        unused: Any = pydantic.Field(default_factory=lambda: None)
        model: Any = {key: (kind, _default(value, ..., unused)) for key, (kind, value) in fields.items()}
        return pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **model)
    unused = msgspec.field(default_factory=lambda: None)
    struct = [(key, kind, _default(value, msgspec.NODEFAULT, unused)) for key, (kind, value) in fields.items()]
    return msgspec.defstruct(name, struct, kw_only=True, forbid_unknown_fields=True, module=module)


def _default(value: Any, missing: Any, unused: Any) -> Any:
    if value is inspect.Parameter.empty:
        return missing
    return value if isinstance(value, _PLAIN) else unused


def _described(annotation: Any) -> Any:
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, *notes = get_args(annotation)
    text = next((note for note in notes if isinstance(note, str)), None)
    if text is None:
        return annotation
    if is_pydantics(annotation):
        import pydantic

        return Annotated[annotation, pydantic.Field(description=text)]
    return Annotated[kind, msgspec.Meta(description=text)]


def _shown(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the arguments in one piece, without the titles that repeat names."""
    definitions = dict(schema.get("$defs", {}))
    if reference := schema.get("$ref"):
        schema = definitions.pop(reference.rpartition("/")[2])
    properties = schema.get("properties", {}).items()
    plain = {name: {key: value for key, value in part.items() if key != "title"} for name, part in properties}
    shown = {key: value for key, value in schema.items() if key not in ("title", "description", "$defs")}
    return {**shown, "properties": plain, **({"$defs": definitions} if definitions else {})}
