"""The address of a client, handed on from the front to the replica that answers, which sees Ray's proxy alone.

The header is believed where the cluster's token stands behind it: others could take each other's turns with it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from edgellm_ray.token import token

if TYPE_CHECKING:
    from starlette.types import Scope

HEADER = "x-edgellm-client"


def sealed(address: str) -> str | None:
    """The header's value; None where this cluster has no token."""
    mark = _mark(address)
    return f"{address} {mark}" if mark and address else None


def from_caller(scope: Scope) -> Scope:
    """As if the client had asked this process, where the front says who it is; without the front's header."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == HEADER.encode()]
    if not values:
        return scope
    own = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != HEADER.encode()]}
    address, _, sent = values[0].partition(" ")
    mark = _mark(address)
    if len(values) == 1 and mark and hmac.compare_digest(sent.encode("latin-1"), mark.encode()):
        own["client"] = (address, 0)
    return own


def _mark(address: str) -> str:
    secret = token()
    return hmac.new(secret.encode(), f"client {address}".encode(), hashlib.sha256).hexdigest() if secret else ""
