"""Which licences a bundle may hold: an allow list of SPDX names, against SPDX expressions and names as they are stated.

The library is in the extra `edgellm[make-bundle]`: cyclonedx-python-lib brings it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from edgellm.errors import UsageError


def require(stated: Iterable[tuple[str, str]], allowed: Collection[str]) -> None:
    """`stated`: pairs of what something is called and its licence.

    Raises:
        UsageError: names all whose licence is not among the `allowed` ones.
    """
    names = {name.lower() for name in allowed}
    refused = [(what, licence) for what, licence in stated if not _is_allowed(licence, names)]
    if refused:
        told = "; ".join(f"{what} ({licence[:80] or 'none stated'})" for what, licence in refused)
        message = f"licences that --licences does not name: {told}"
        raise UsageError(message, hint="add them, or choose another model and other wheels", param="licences")


def _is_allowed(licence: str, names: Collection[str]) -> bool:
    """Of `A OR B` one will do, of `A AND B` both must; what is no expression is one name."""
    from license_expression import ExpressionError, ExpressionParseError, Licensing

    licensing: Any = Licensing
    if licence.lower() in names:
        return True
    try:
        return _holds(licensing().parse(licence), names)
    except (ExpressionError, ExpressionParseError, RecursionError):
        return False


def _holds(expression: object, names: Collection[str]) -> bool:
    parts = [_holds(part, names) for part in getattr(expression, "args", ())]
    if not parts:
        return str(expression).lower() in names
    return any(parts) if type(expression).__name__ == "OR" else all(parts)
