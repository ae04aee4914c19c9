"""The checks that requests make of themselves: types as decoding checks them, and ranges with the name of the value."""

from __future__ import annotations

import functools

import msgspec

from edgellm.errors import UsageError

# No real count of tokens comes near; larger ones would not fit the engines' integers.
MAX_COUNT = 2**31
CANNOT_BE_SENT = "the request cannot be sent"


def check_types(struct: msgspec.Struct, what: str = CANNOT_BE_SENT) -> None:
    """Make the checks that decoding makes, for a struct that was created by a call. `what` begins the refusal.

    Raises:
        UsageError
    """
    try:
        msgspec.convert(msgspec.structs.asdict(struct), _unchecked(type(struct)))
    except (msgspec.ValidationError, OverflowError) as error:
        raise cannot_be_sent(struct, error, what) from None


def check_range(holds: bool, what: str, allowed: str) -> None:
    """`what`: the value as `name=value`.

    Raises:
        UsageError: it does not hold.
    """
    if not holds:
        name = what.partition("=")[0].partition(" ")[0]
        raise UsageError(f"{what} is out of range", hint=f"allowed: {allowed}", param=name)


def cannot_be_sent(struct: msgspec.Struct, error: Exception, what: str = CANNOT_BE_SENT) -> UsageError:
    kind = type(struct)
    decode = "" if isinstance(error, msgspec.ValidationError) else "; decode text with errors='replace'"
    hint = f"see `{kind.__module__}.{kind.__name__}`{decode}"
    return UsageError(f"{what}: {error}", hint=hint)


@functools.cache
def _unchecked(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same fields in a struct without checks of its own."""
    return msgspec.defstruct(kind.__name__, [(field.name, field.type) for field in msgspec.structs.fields(kind)])
