"""Logarithms of probabilities: of the model's distribution, whatever temperature, filters and grammar made of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgellm.text.sampling import LogitRow, largest
from edgellm.types.logprob import Alternative, TokenLogprob

IMPOSSIBLE = -9999.0  # for minus infinity, which JSON does not have; OpenAI's value


def of_first(token: int, token_bytes: Callable[[int], bytes]) -> TokenLogprob:
    """Of the first token of a prompt, which nothing foretells."""
    return TokenLogprob(Alternative(token, token_bytes(token), 0.0))


def of_token(row: LogitRow, token: int, n_top: int, token_bytes: Callable[[int], bytes]) -> TokenLogprob:
    """What `row` says of `token` and of the `n_top` likeliest. `row`: float32 (vocab_size,), as the engine gave it.

    Softmax in float64 with the maximum taken out first, so that the sum neither overflows nor loses its small terms.
    """
    highest = float(row.max())
    log_total = highest + math.log(np.exp(row.astype(np.float64) - highest).sum())

    def alternative(of: int) -> Alternative:
        logprob = float(row[of]) - log_total
        return Alternative(of, token_bytes(of), logprob if logprob > IMPOSSIBLE else IMPOSSIBLE)

    top = tuple(alternative(int(likely)) for likely in largest(row, min(n_top, len(row)))) if n_top else ()
    return TokenLogprob(alternative(token), top)
