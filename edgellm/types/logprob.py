"""How likely a token of an answer was, by the model's own distribution."""

from __future__ import annotations

import msgspec

MAX_TOP = 20  # alternatives for each token, as OpenAI's API allows


class Alternative(msgspec.Struct, frozen=True):
    """A token that might have come; `piece` = its bytes, which may be a part of a character."""

    token: int
    piece: bytes
    logprob: float  # natural logarithm of its probability; -9999 where that is 0


class TokenLogprob(msgspec.Struct, frozen=True):
    """The token that came, and the likeliest ones in its place, likeliest first."""

    chosen: Alternative
    top: tuple[Alternative, ...] = ()
