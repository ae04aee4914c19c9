"""Whether what a plugin put into a dataclass or Struct is of the types that its class says.

Nothing asks when one is made, and the error would come far from the mistake. So would that of a collection of the
plugin's own class: what it gives is copied into Python's own types once, where a failure has a name.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Set
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import structs

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60
_UNTOLD = (Any, object)
_PLAIN_KINDS = (list, tuple, set, frozenset)


def in_plain_types(thing: Any, text: Callable[[str], str] = str.__str__) -> Any:
    """The same, also within classes of ours, in the place of others' kinds of text, number and collection with
    Python's own. Runs code of those classes, and raises what that raises.

    Args:
        text: what a text becomes.
    """
    kind: type = type(thing)
    if issubclass(kind, str):
        return text(str.__str__(thing))
    if issubclass(kind, (int, float)):
        number = int if issubclass(kind, int) else float
        return thing if kind in (bool, number) else number(thing)
    if issubclass(kind, Mapping):
        pairs = list(thing.items())
        copied = [(in_plain_types(key, text), in_plain_types(value, text)) for key, value in pairs]
        is_plain = kind is dict and all(a is c and b is d for (a, b), (c, d) in zip(pairs, copied, strict=True))
        return thing if is_plain else dict(copied)
    if issubclass(kind, (list, tuple, Set)):
        items = list(thing)
        copies = [in_plain_types(item, text) for item in items]
        is_plain = kind in _PLAIN_KINDS and all(map(operator.is_, items, copies))
        return thing if is_plain else _plain_kind(kind)(copies)
    return _in_plain_fields(thing, text)


def _plain_kind(kind: type) -> type:
    return next((plain for plain in (list, tuple, set) if issubclass(kind, plain)), frozenset)


def _in_plain_fields(thing: Any, text: Callable[[str], str]) -> Any:
    """The thing itself where nothing in it changes."""
    kind: type = type(thing)
    values = {field.name: getattr(thing, field.name) for field in _fields(kind)}
    copies = {name: in_plain_types(value, text) for name, value in values.items()}
    changed = {name: copy for name, copy in copies.items() if copy is not values[name]}
    if not changed:
        return thing
    return (dataclasses.replace if dataclasses.is_dataclass(thing) else structs.replace)(thing, **changed)


def mistyped(thing: object, path: str = "") -> str:
    """The first field in `thing`, or in what it holds, that is of another type: `"shape.n_layer is '28', int is
    expected"`; "" = none is."""
    if isinstance(thing, (list, tuple)):
        return _first(mistyped(item, f"{path}[{i}]") for i, item in enumerate(thing))
    kind: type = type(thing)
    return _first(_of_field(thing, field, path) for field in _fields(kind))


def _of_field(thing: object, field: _Field, path: str) -> str:
    place = f"{path}.{field.name}" if path else field.name
    problem = _unlike(getattr(thing, field.name), field.hint, place)
    if problem and not field.is_shown:  # a token, perhaps
        return f"{place} is of another type, {_told(field.hint)} is expected"
    return problem


def _first(problems: typing.Iterable[str]) -> str:
    return next(filter(None, problems), "")


class _Field(typing.NamedTuple):
    name: str
    hint: Any
    is_shown: bool  # by its class, in a repr


@functools.cache
def _fields(kind: type) -> tuple[_Field, ...]:
    """Of a dataclass or Struct; none of other classes, and where only a type checker has the annotations. What a
    plugin's class adds to one of ours is read by nobody else."""
    kind = next((base for base in kind.__mro__ if base.__module__.partition(".")[0] == "edgellm"), kind)
    if dataclasses.is_dataclass(kind):
        shown = {field.name: field.repr for field in dataclasses.fields(kind)}
    elif issubclass(kind, msgspec.Struct):
        shown = dict.fromkeys(kind.__struct_fields__, True)
    else:
        return ()
    try:
        hints = typing.get_type_hints(kind)
    except NameError:
        return ()
    return tuple(_Field(name, hints[name], is_shown) for name, is_shown in shown.items())


def _unlike(value: Any, hint: Any, path: str) -> str:
    """Why `value`, at `path`, is not what the annotation `hint` says."""
    wrong = _wrong(value, hint, path)
    origin, args = get_origin(hint), get_args(hint)
    if hint in _UNTOLD or isinstance(hint, typing.TypeVar):
        return ""
    if origin is Literal:
        return "" if value in args and type(value) in {type(arg) for arg in args} else wrong
    if origin in (Union, types.UnionType):
        problems = [_unlike(value, arg, path) for arg in args]
        # Of a value of a class that may be there, what is wrong in it.
        of_itself = {"", *(_wrong(value, arg, path) for arg in args)}
        deeper = (problem for problem in problems if problem not in of_itself)
        return next(deeper, wrong) if all(problems) else ""
    kind = origin or hint
    if kind is None:
        kind = type(None)
    if not isinstance(kind, type):
        return ""
    is_number = kind in (int, float)
    if not isinstance(value, (int, float) if kind is float else kind) or (is_number and isinstance(value, bool)):
        return wrong
    return _inside(value, kind, args, path) or (mistyped(value, path) if not args else "")


def _wrong(value: Any, hint: Any, path: str) -> str:
    return f"{path} is {_repr.repr(value)}, {_told(hint)} is expected"


def _inside(value: Any, kind: type, args: tuple[Any, ...], path: str) -> str:
    """The first item of a collection that is not what the annotation says."""
    if not args or not issubclass(kind, Collection):
        return ""
    if issubclass(kind, Mapping):
        of_key, of_value = args
        return _first(
            _unlike(key, of_key, f"a key of {path}") or _unlike(item, of_value, f"{path}[{_repr.repr(key)}]")
            for key, item in value.items()
        )
    if issubclass(kind, tuple) and args[-1] is not Ellipsis:
        if len(value) != len(args):
            return f"{path} has {len(value)} items, {len(args)} are expected"
        return _first(_unlike(item, arg, f"{path}[{i}]") for i, (item, arg) in enumerate(zip(value, args, strict=True)))
    where = f"an item of {path}" if issubclass(kind, Set) else ""
    return _first(_unlike(item, args[0], where or f"{path}[{i}]") for i, item in enumerate(value))


def _told(hint: Any) -> str:
    """`tuple[ModelFile, ...] | None` -> "tuple of ModelFile or None"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_told, args)))
    if hint in (None, type(None)):
        return "None"
    name: str = getattr(origin or hint, "__name__", str(hint))
    is_collection = isinstance(origin, type) and issubclass(origin, Collection)
    items = [_told(arg) for arg in args if arg is not Ellipsis] if is_collection else []
    return f"{name} of {' and '.join(items)}" if items else name
