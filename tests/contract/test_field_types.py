"""The first value of another type than its class says is told by its place; what plugins may make is read in full."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from msgspec import Struct

from edgellm.catalog.lookup import catalog
from edgellm.contract import backend, field_types
from edgellm.contract.converter import Converted
from edgellm.contract.field_types import mistyped
from edgellm.contract.source import FetchedFile, RemoteFile
from edgellm.estimate.quants import QUANTS, Quant
from edgellm.types import model, plan, priors
from edgellm.types.criterion import Stated
from edgellm.types.machine import Accelerator


class Inner(Struct, frozen=True):
    n: int


@dataclass
class Outer:
    name: str = "x"
    size: int | None = None
    rate: float = 1
    is_on: bool = False
    kind: Literal["a", "b"] = "a"
    items: tuple[Inner, ...] = ()
    pair: tuple[str, int] = ("x", 1)
    names: frozenset[str] = frozenset()
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    inner: Inner | None = None
    call: Callable[[], None] | None = None
    whatever: Any = ()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, ""),
        (
            {"rate": 2, "size": 7, "items": (Inner(1),), "inner": Inner(2), "by_name": {"x": Inner(3)}, "call": print},
            "",
        ),
        ({"name": None}, "name is None, str is expected"),
        ({"size": "4GB"}, "size is '4GB', int or None is expected"),
        ({"size": True}, "size is True, int or None is expected"),
        ({"size": 4.0}, "size is 4.0, int or None is expected"),
        ({"rate": "fast"}, "rate is 'fast', float is expected"),
        ({"is_on": 1}, "is_on is 1, bool is expected"),
        ({"kind": "c"}, "kind is 'c', one of a, b is expected"),
        ({"kind": []}, "kind is [], one of a, b is expected"),
        ({"items": [Inner(1)]}, "items is [Inner(n=1)], tuple of Inner is expected"),
        ({"items": (Inner(1), 2)}, "items[1] is 2, Inner is expected"),
        ({"items": (Inner("1"),)}, "items[0].n is '1', int is expected"),
        ({"pair": ("x",)}, "pair has 1 items, 2 are expected"),
        ({"pair": ("x", "y")}, "pair[1] is 'y', int is expected"),
        ({"names": "x"}, "names is 'x', frozenset of str is expected"),
        ({"names": frozenset({1})}, "an item of names is 1, str is expected"),
        ({"by_name": {1: Inner(1)}}, "a key of by_name is 1, str is expected"),
        ({"by_name": {"x": Inner(None)}}, "by_name['x'].n is None, int is expected"),
        ({"inner": {"n": 1}}, "inner is {'n': 1}, Inner or None is expected"),
        ({"inner": Inner("1")}, "inner.n is '1', int is expected"),
        ({"call": 7}, "call is 7, Callable or None is expected"),
    ],
)
def test_the_first_wrong_value_is_told_by_its_place(values: dict[str, Any], told: str) -> None:
    assert mistyped(Outer(**values)) == told


def test_what_its_class_does_not_show_is_not_shown() -> None:
    token: Any = b"Bearer secret"
    assert mistyped(RemoteFile("a", headers={"Authorization": token})) == (
        "headers is of another type, Mapping of str and str is expected"
    )


def test_what_a_plugin_adds_is_its_own() -> None:
    @dataclass(frozen=True)
    class Mine(RemoteFile):
        timeout: float = None  # type: ignore[assignment]

    assert mistyped(Mine("a")) == ""
    assert mistyped(Mine("a", bytes="b")) == "bytes is 'b', int or None is expected"  # type: ignore[arg-type]


def test_a_list_is_looked_through() -> None:
    assert mistyped([Inner(1), Inner("2")]) == "[1].n is '2', int is expected"
    assert mistyped([1, "2", None]) == ""


@pytest.mark.parametrize(
    "kind",
    [
        Accelerator, model.ModelCard, model.ModelFile, model.Shape, model.ModelFacts, Quant, Stated, plan.Footprint,
        backend.Device, backend.Offload, backend.Advice, priors.Priors, priors.ExportRule, priors.ProviderPrior,
        priors.ProviderRate, priors.Repacking, Converted, FetchedFile, RemoteFile,
    ],
)  # fmt: skip
def test_the_fields_of_all_that_plugins_make_are_known(kind: type) -> None:
    """One whose annotations cannot be read would not be checked."""
    assert field_types._fields(kind)


def test_what_ships_is_as_its_classes_say() -> None:
    cards = list(catalog().values())

    assert mistyped(cards) == ""
    assert mistyped(list(QUANTS.values())) == ""
    shape = next(card.shape for card in cards if card.shape is not None)
    broken = replace(cards[0], shape=replace(shape, n_layer="28"))
    assert mistyped(broken) == "shape.n_layer is '28', int is expected"
