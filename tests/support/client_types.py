"""What the types of official clients say of the bodies that they send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def client_fields(types: Iterable[Any]) -> Iterator[str]:
    """The names of all fields, those of base classes too."""
    for type_ in types:
        for base in type_.__mro__ if hasattr(type_, "__mro__") else (type_,):
            yield from getattr(base, "__annotations__", {})
