"""What the front tells the replica that answers, in headers: the client's address, as that replica sees Ray's proxy
alone, and what is known of an answer that may go on elsewhere.

They are believed where the cluster's token stands behind them: others could take each other's turns, or put words into
an answer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellm.server import continued
from edgellm.types.continuation import Continuation
from edgellm_ray.token import token

if TYPE_CHECKING:
    from starlette.types import Scope

HEADER = "x-edgellm-client"
CONTINUATION_HEADER = "x-edgellm-continuation"
HEADERS = frozenset({HEADER, CONTINUATION_HEADER})
MOST_TOKENS = 8192  # that a header carries, in 32 KiB; Ray's proxy takes 64 of all headers
_ID_BYTES = 3  # no vocabulary has more than 2**24 tokens


def is_believed() -> bool:
    """Whether this cluster has a token, without which replicas believe nothing."""
    return bool(token())


def sealed(address: str) -> str | None:
    """The value of HEADER; None where this cluster has no token."""
    return _sealed("client", address) if address else None


def sealed_continuation(seed: int, tokens: Sequence[int]) -> str | None:
    """The value of CONTINUATION_HEADER; None where this cluster has no token."""
    ids = b"".join(one.to_bytes(_ID_BYTES, "little") for one in tokens)
    return _sealed("continuation", f"{seed}:{base64.b64encode(ids).decode()}")


def from_caller(scope: Scope) -> Scope:
    """As if the client had asked this process, where the front says who it is; without the front's headers."""
    sent = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    if not any(name in HEADERS for name, _ in sent):
        return scope
    own: Scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0].decode("latin-1") not in HEADERS]}
    if address := _opened("client", [value for name, value in sent if name == HEADER]):
        own["client"] = (address, 0)
    if told := _opened("continuation", [value for name, value in sent if name == CONTINUATION_HEADER]):
        seed, _, ids = told.partition(":")
        own = continued.to_scope(own, Continuation(_ids(ids), int(seed)))
    return own


def _ids(text: str) -> tuple[int, ...]:
    ids = base64.b64decode(text)
    return tuple(int.from_bytes(ids[at : at + _ID_BYTES], "little") for at in range(0, len(ids), _ID_BYTES))


def _sealed(kind: str, value: str) -> str | None:
    mark = _mark(kind, value)
    return f"{value} {mark}" if mark else None


def _opened(kind: str, values: Sequence[str]) -> str:
    """What the front sealed; "" where it did not, or more than one came."""
    value, _, sent = values[0].rpartition(" ") if len(values) == 1 else ("", "", "")
    mark = _mark(kind, value)
    return value if mark and hmac.compare_digest(sent.encode("latin-1"), mark.encode()) else ""


def _mark(kind: str, value: str) -> str:
    secret = token()
    return hmac.new(secret.encode(), f"{kind} {value}".encode(), hashlib.sha256).hexdigest() if secret else ""
