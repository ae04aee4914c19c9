"""SentencePiece's byte-pair encoding by scores, as in `tokenizer.ggml.model` = "llama".

Written here because the `tokenizers` library has merges and no scores: making merges of Gemma's 262,144 scores takes
seconds, and ties then fall otherwise than in SentencePiece.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping

SPACE = "\u2581"
_MAX_CACHED = 20_000  # words
_MAX_CACHED_CHARS = 64  # of one word


class SentencePiece:
    """Merges the neighbours whose joint token has the highest score, the leftmost first, until none is a token.

    Characters without a token become their UTF-8 bytes' tokens, or `unk_id` where the vocabulary lacks those.
    """

    def __init__(
        self,
        ids: Mapping[str, int],  # tokens that text may become; no control, unknown or byte tokens
        scores: Mapping[str, float],
        byte_ids: Mapping[int, int],
        *,
        unk_id: int | None,
        space_prefix: bool,
    ) -> None:
        self._ids = ids
        self._costs = {text: -score for text, score in scores.items() if len(text) > 1}
        self._byte_ids = byte_ids
        self._unknown = [] if unk_id is None else [unk_id]
        self._prefix = SPACE if space_prefix else ""
        self._cache: dict[str, list[int]] = {}
        # No token reaches from a character that no token has before a space into that space: words that such a
        # character ends are encoded one by one and remembered.
        bridges = {text[at - 1] for text in self._costs for at in _inner_spaces(text)}
        no_end = re.escape("".join(sorted(bridges | {SPACE})))
        self._cut = re.compile(f"(?<=[^{no_end}])(?={SPACE})")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, which holds no special tokens."""
        out: list[int] = []
        for word in self._cut.split(self._prefix + text.replace(" ", SPACE)):
            tokens = self._cache.get(word)
            if tokens is None:
                tokens = self._merge(word)
                if len(word) <= _MAX_CACHED_CHARS:
                    if len(self._cache) >= _MAX_CACHED:
                        self._cache.clear()
                    self._cache[word] = tokens
            out += tokens
        return out

    def _merge(self, text: str) -> list[int]:
        """Ids of one word. Time is n log n in its length."""
        costs = self._costs
        parts: list[str | None] = list(text)
        n = len(parts)
        after = [*range(1, n), -1] if n else []
        before = list(range(-1, n - 1))
        queue = [(costs[pair], i, pair) for i in range(n - 1) if (pair := text[i : i + 2]) in costs]
        heapq.heapify(queue)
        while queue:
            _, left, pair = heapq.heappop(queue)
            part, right = parts[left], after[left]
            if part is None or right < 0 or part + (parts[right] or "") != pair:
                continue  # one of the two has been merged with another since
            parts[left], parts[right] = pair, None
            after[left] = following = after[right]
            if following >= 0:
                before[following] = left
                joint = pair + (parts[following] or "")
                if joint in costs:
                    heapq.heappush(queue, (costs[joint], left, joint))
            if (previous := before[left]) >= 0:
                joint = (parts[previous] or "") + pair
                if joint in costs:
                    heapq.heappush(queue, (costs[joint], previous, joint))
        out: list[int] = []
        for part in parts:
            if part is not None:
                token = self._ids.get(part)
                out += self._bytes(part) if token is None else [token]
        return out

    def _bytes(self, text: str) -> list[int]:
        tokens = [self._byte_ids.get(byte) for byte in text.encode()]
        known = [token for token in tokens if token is not None]
        return known if len(known) == len(tokens) else self._unknown


def _inner_spaces(text: str) -> list[int]:
    """Places of spaces in `text`, but for its first character."""
    return [at for at in range(1, len(text)) if text[at] == SPACE] if SPACE in text[1:] else []
