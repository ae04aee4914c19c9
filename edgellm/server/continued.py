"""Answers that may go on in another process: the front of a cluster says so, and is told the ids of their tokens.

It says so in the scope of a request, which no client can write, and the ids are lines that it takes out of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.types import Scope

from edgellm.types.continuation import Continuation
from edgellm.types.request import GenerationRequest

_KEY = "edgellm.continuation"
_MARK = b": tokens "  # a comment of server-sent events; where events are lines of JSON, no client gets to see one


def to_scope(scope: Scope, continuation: Continuation) -> Scope:
    """The scope of a request whose answer may go on elsewhere, or began there."""
    return {**scope, _KEY: continuation}


def of(scope: Scope) -> Continuation | None:
    """None = its answer goes on nowhere else."""
    continuation: Continuation | None = scope.get(_KEY)
    return continuation


def applied(scope: Scope, generations: Sequence[GenerationRequest]) -> Sequence[GenerationRequest]:
    """With the continuation of the request in the scope; several answers, or logprobs, have none."""
    continuation = of(scope)
    if continuation is None or len(generations) > 1:
        return generations
    one = generations[0]
    if one.n > 1 or one.top_logprobs is not None or one.echo:
        return generations
    return [msgspec.structs.replace(one, continuation=continuation)]


def line(tokens: Sequence[int]) -> bytes:
    """The ids of the tokens of the event that comes next, without the end that events have."""
    return _MARK + b" ".join(b"%d" % token for token in tokens)


def tokens_of(line: bytes) -> tuple[int, ...] | None:
    """The ids in what `line` wrote; None = it is something else."""
    if not line.startswith(_MARK):
        return None
    return tuple(map(int, line.removeprefix(_MARK).split()))
