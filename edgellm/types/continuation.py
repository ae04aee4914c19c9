"""An answer that may go on in another process than the one that began it."""

from __future__ import annotations

import msgspec

from edgellm.errors import UsageError
from edgellm.types.checks import check_ids, check_range


class Continuation(msgspec.Struct, frozen=True):
    """What has to be known of an answer so that it goes on as if one process had written it.

    With it, each `Delta` has the ids of its tokens.
    """

    tokens: tuple[int, ...] = ()  # that it begins with: they are read with the prompt, and told as if they were drawn
    seed: int | None = None  # where the request has none; it is told nowhere

    def check(self, *, alone: bool) -> None:
        """`alone`: the request asks for one answer, without logprobs and without its prompt.

        Raises:
            UsageError: an id or the seed is none, or such a request cannot go on elsewhere.
        """
        check_ids(self.tokens, "continuation")
        check_range(self.seed is None or 0 <= self.seed < 2**63, f"continuation.seed={self.seed}", "0 to 2**63 - 1")
        if not alone:
            hint = "ask for one answer (n=1), without top_logprobs and without echo"
            raise UsageError("this request cannot go on elsewhere", hint=hint, param="continuation")
