"""The checks that requests make of themselves: types as decoding checks them, and ranges with the name of the value."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import re
import reprlib
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, get_type_hints

import msgspec

from edgellm.errors import UsageError

# No real count of tokens comes near; larger ones would not fit the engines' integers.
MAX_COUNT = 2**31
# What msgspec says, with the names that JSON has for types.
_REASON = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_MODULE = re.compile(r"\b[a-z_]\w*\.(?=\w)")  # of a type
_IN_PYTHON = {"null": "None", "array": "list", "object": "dict"}
CANNOT_BE_SENT = "the request cannot be sent"
_PLAIN: tuple[Any, ...] = (str, int, float, bytes, list, tuple, dict)


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Checked = msgspec.Struct | _Dataclass


def check_types(struct: Checked, what: str = CANNOT_BE_SENT) -> None:
    """Make the checks that decoding makes, for a struct or dataclass that was created by a call. `what` begins the
    refusal of what is wrong in another way than by its type.

    Numbers of other libraries become Python's own in it.

    Raises:
        UsageError
    """
    fields = {name: getattr(struct, name) for name in _fields(type(struct))}
    try:
        msgspec.convert(fields, _unchecked(type(struct)))
    except (msgspec.ValidationError, OverflowError) as error:
        # Few have any, and a prompt of token ids is long.
        plain = plain_numbers(fields)
        try:
            msgspec.convert(plain, _unchecked(type(struct)))
        except (msgspec.ValidationError, OverflowError):
            raise cannot_be_sent(struct, error, what) from None
        for name, value in plain.items():
            _set(struct, name, value)


def plain_numbers(value: Any) -> Any:
    """The same with Python's own numbers in the place of numpy's and their like, also in lists and dictionaries."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return operator.index(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, dict):
        return {name: plain_numbers(part) for name, part in value.items()}
    return type(value)(map(plain_numbers, value)) if type(value) in (tuple, list) else value


def of_plain_type(value: object) -> object:
    """Of subclasses, such as texts of numpy, which the checks let through and msgspec's encoders do not know."""
    for kind in _PLAIN:
        if isinstance(value, kind):
            return str.__str__(value) if isinstance(value, str) else kind(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def check_range(holds: bool, what: str, allowed: str) -> None:
    """`what`: the value as `name=value`.

    Raises:
        UsageError: it does not hold.
    """
    if not holds:
        name = what.partition("=")[0].partition(" ")[0]
        error = UsageError(f"{what} is out of range", hint=f"allowed: {allowed}", param=name)
        error.said = (what[len(name) :], " is out of range")
        raise error


def check_ids(ids: tuple[int, ...], name: str) -> None:
    """
    Raises:
        UsageError: one is no id of a token.
    """
    check_range(not ids or (min(ids) >= 0 and max(ids) < MAX_COUNT), name, "token ids from 0 on")


def check_names(
    names: Iterable[str], allowed: Iterable[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> None:
    """`elsewhere`: hints for names that mean something in another place.

    Raises:
        UsageError: one is none of those allowed.
    """
    options = [*allowed]
    if not (unknown := sorted({*names} - {*options})):
        return
    import difflib

    first = unknown[0]
    near = difflib.get_close_matches(first[:60], options, n=1)
    hint = (
        elsewhere.get(first, "") or (f"did you mean {near[0]}? " if near else "") + f"options are: {', '.join(options)}"
    )
    raise UsageError(f"unknown option: {', '.join(unknown)}", hint=hint, param=first)


def cannot_be_sent(struct: Checked, error: Exception, what: str = CANNOT_BE_SENT) -> UsageError:
    kind = type(struct)
    see = f"see `{kind.__module__}.{kind.__name__}`"
    if not isinstance(error, msgspec.ValidationError):
        return UsageError(f"{what}: {error}", hint=f"{see}; decode text with errors='replace'")
    problem, where, allowed = in_python(error)
    field = where.partition("[")[0].partition(".")[0]
    if not allowed:
        return UsageError(f"{what}: {where}: {problem}", hint=see, param=field)
    shown = ""
    if where == field:
        shown = f"={reprlib.repr(getattr(struct, field))}"
        allowed = _MODULE.sub("", inspect.formatannotation(_fields(kind)[field])).replace(" | ", " or ")
    return UsageError(f"{where}{shown} {problem}", hint=f"allowed: {allowed}; {see}", param=field)


def in_python(error: msgspec.ValidationError) -> tuple[str, str, str]:
    """What msgspec says of a value, in Python's words: what is wrong with it ("has the wrong type: str"), where it is
    ("stop[0]"), and what is allowed ("int or None"; "" where it is no matter of types)."""
    match = _REASON.fullmatch(str(error))
    assert match
    reason, where = match[1], match[2] or ""
    if not (types := _WRONG_TYPE.fullmatch(reason)):
        return reason[:1].lower() + reason[1:], where, ""
    allowed, came = (" or ".join(_IN_PYTHON.get(name, name) for name in names.split(" | ")) for names in types.groups())
    return f"has the wrong type: {came}", where, allowed


def _set(struct: Checked, name: str, value: Any) -> None:
    if isinstance(struct, msgspec.Struct):
        msgspec.structs.force_setattr(struct, name, value)
    else:
        object.__setattr__(struct, name, value)


@functools.cache
def _unchecked(kind: type) -> type[msgspec.Struct]:
    """The same fields in a struct without checks of its own."""
    return msgspec.defstruct(kind.__name__, [*_fields(kind).items()])


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """Their types."""
    if dataclasses.is_dataclass(kind):
        types = get_type_hints(kind)
        return {field.name: types[field.name] for field in dataclasses.fields(kind)}
    return {field.name: field.type for field in msgspec.structs.fields(kind)}
