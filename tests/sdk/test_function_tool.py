"""What a model is told of a function, and which arguments of the model reach it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
import pytest
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.sdk.function_tool import FunctionTool


@dataclasses.dataclass
class Place:
    city: str
    country: str = "DE"


def weather(
    place: Place,
    day: Annotated[int, "from today on"] = 0,
    unit: Literal["C", "F"] = "C",
    notes: list[str] = ["x"],  # noqa: B006
) -> str:
    """The weather of a day.

    Args:
        place: where.
    """
    return f"{place} {day} {unit} {notes}"


def rated(stars: Annotated[int, pydantic.Field(ge=1, le=5), "how good"], text: str = "") -> None:
    """Rate."""


class Home:
    def light(self, on: bool) -> bool:
        return on


def test_a_function_describes_itself() -> None:
    tool = FunctionTool(weather).tool
    assert (tool.name, tool.description.splitlines()[0]) == ("weather", "The weather of a day.")
    assert "place: where." in tool.description
    assert tool.parameters == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "place": {"$ref": "#/$defs/Place"},
            "day": {"type": "integer", "description": "from today on", "default": 0},
            "unit": {"enum": ["C", "F"], "default": "C"},
            "notes": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["place"],
        "$defs": {
            "Place": {
                "title": "Place",
                "type": "object",
                "additionalProperties": False,
                "properties": {"city": {"type": "string"}, "country": {"type": "string", "default": "DE"}},
                "required": ["city"],
            }
        },
    }


def test_pydantic_describes_what_is_annotated_with_it() -> None:
    assert FunctionTool(rated).tool.parameters == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "stars": {"type": "integer", "minimum": 1, "maximum": 5, "description": "how good"},
            "text": {"type": "string", "default": ""},
        },
        "required": ["stars"],
    }
    with pytest.raises(ValueError):
        FunctionTool(rated).arguments('{"stars": 6}')
    assert FunctionTool(rated).arguments('{"stars": 5}') == {"stars": 5}


def test_methods_and_functions_without_parameters_are_tools() -> None:
    def now() -> str:
        return "noon"

    assert FunctionTool(Home().light).arguments('{"on": true}') == {"on": True}
    assert FunctionTool(now).tool.parameters["properties"] == {}
    assert FunctionTool(now).arguments("") == {}


def test_only_what_the_model_wrote_is_passed() -> None:
    arguments = FunctionTool(weather).arguments('{"place": {"city": "Köln"}, "unit": "F"}')
    assert arguments == {"place": Place("Köln"), "unit": "F"}
    assert weather(**arguments) == "Place(city='Köln', country='DE') 0 F ['x']"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '{"place": {"city": "Köln"}',
        '{"place": "Köln"}',
        '{"place": {"city": "Köln"}, "day": "1"}',
        '{"place": {"city": "Köln"}, "when": 1}',
        '{"place": {"city": "Köln"}, "unit": "K"}',
        '{"place": {"city": "Köln"}, "day": null}',
    ],
)
def test_wrong_arguments_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        FunctionTool(weather).arguments(text)


def unannotated(city) -> None:
    pass


def many(*cities: str) -> None:
    pass


def unnamed(city: str, /) -> None:
    pass


def strange(city: complex) -> None:
    pass


def unknown(city: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


NO_TOOLS = (unannotated, many, unnamed, strange, unknown, lambda: 1, "weather")


@pytest.mark.parametrize("function", NO_TOOLS, ids=lambda function: getattr(function, "__name__", function))
def test_what_cannot_be_a_tool_is_refused(function: Callable[..., Any]) -> None:
    with refuses(UsageError, param="tools"):
        FunctionTool(function)
