"""The checks that requests make of themselves: types as decoding checks them, and ranges with the name of the value."""

from __future__ import annotations

import functools
import operator
import re
from numbers import Integral, Real
from typing import Any

import msgspec

from edgellm.errors import UsageError

# No real count of tokens comes near; larger ones would not fit the engines' integers.
MAX_COUNT = 2**31
_FIELD = re.compile(r"`\$\.(\w+)")  # in what msgspec says
CANNOT_BE_SENT = "the request cannot be sent"


def check_types(struct: msgspec.Struct, what: str = CANNOT_BE_SENT) -> None:
    """Make the checks that decoding makes, for a struct that was created by a call. `what` begins the refusal.

    Numbers of other libraries become Python's own in it.

    Raises:
        UsageError
    """
    fields = msgspec.structs.asdict(struct)
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
            msgspec.structs.force_setattr(struct, name, value)


def plain_numbers(value: Any) -> Any:
    """The same with Python's own numbers in the place of numpy's and their like, also in lists and dictionaries."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return operator.index(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, dict):
        return {name: plain_numbers(part) for name, part in value.items()}
    return type(value)(map(plain_numbers, value)) if type(value) in (tuple, list) else value


def check_range(holds: bool, what: str, allowed: str) -> None:
    """`what`: the value as `name=value`.

    Raises:
        UsageError: it does not hold.
    """
    if not holds:
        name = what.partition("=")[0].partition(" ")[0]
        raise UsageError(f"{what} is out of range", hint=f"allowed: {allowed}", param=name)


def check_ids(ids: tuple[int, ...], name: str) -> None:
    """
    Raises:
        UsageError: one is no id of a token.
    """
    check_range(not ids or (min(ids) >= 0 and max(ids) < MAX_COUNT), name, "token ids from 0 on")


def cannot_be_sent(struct: msgspec.Struct, error: Exception, what: str = CANNOT_BE_SENT) -> UsageError:
    kind = type(struct)
    decode = "" if isinstance(error, msgspec.ValidationError) else "; decode text with errors='replace'"
    hint = f"see `{kind.__module__}.{kind.__name__}`{decode}"
    field = _FIELD.search(str(error))
    return UsageError(f"{what}: {error}", hint=hint, param=field[1] if field else "")


@functools.cache
def _unchecked(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same fields in a struct without checks of its own."""
    return msgspec.defstruct(kind.__name__, [(field.name, field.type) for field in msgspec.structs.fields(kind)])
