"""The heavy half: turns tokens into logits. Knows nothing of templates, sampling or stop strings; the core does those.

The vocabulary is the 256 bytes and END. END closes the prompt, and then the answer, which is the prompt in capitals:
the next token follows from the tokens alone, so a slot is nothing but its list of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgellm.contract.engine import EngineInfo, Logits, SlotInput
from edgellm.errors import CacheFull
from edgellm.types.plan import Settings

END = 256


class ByteTokenizer:
    """One token a byte."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokens = list(text.encode())
        return [*tokens, END] if add_special else tokens

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def text(self, token: int) -> str:
        return bytes([token]).decode(errors="replace") if token < END else "<end>"

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        return [*(bytes([byte]) for byte in range(END)), b"<end>"], frozenset({END})


class ShoutEngine:
    """One process, one thread: the runtime never calls it from two."""

    def __init__(self, settings: Settings) -> None:
        self.slots: list[list[int]] = [[] for _ in range(settings.n_slots)]
        self.tokenizer = ByteTokenizer()
        self.info = EngineInfo(
            n_slots=settings.n_slots,
            n_ctx=settings.n_ctx,
            max_batch_tokens=settings.n_batch,
            max_logits=settings.n_batch,
            vocab_size=END + 1,
            eos_ids=frozenset({END}),
            add_bos=True,
            chat_template="{{ messages[-1]['content'] }}",
            batch_invariant=True,
        )

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        for entry in batch:  # refuse first, touch the cache after: a step is all or nothing
            if (n := entry.n_past + len(entry.tokens)) > self.info.n_ctx:
                raise CacheFull(f"slot {entry.slot} would hold {n} of {self.info.n_ctx} tokens")
        wanted = []
        for entry in batch:
            tokens = self.slots[entry.slot]
            tokens[entry.n_past :] = entry.tokens
            if entry.n_logits:
                ends = range(len(tokens) - entry.n_logits + 1, len(tokens) + 1)
                wanted.append(self._logits([next_token(tokens[:end]) for end in ends]))
        return wanted

    def _logits(self, expected: list[int]) -> Logits:
        logits = np.zeros((len(expected), self.info.vocab_size), np.float32)
        logits[np.arange(len(expected)), expected] = 20.0
        logits.flags.writeable = False
        return logits

    def truncate(self, slot: int, n_tokens: int) -> int:
        del self.slots[slot][n_tokens:]
        return len(self.slots[slot])

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        self.slots[target] = self.slots[source][:n_tokens]
        return len(self.slots[target])

    def close(self) -> None:
        self.slots = []


def next_token(tokens: list[int]) -> int:
    """What follows `tokens`: END after a prompt, then the prompt's bytes in capitals, then END."""
    if END not in tokens:
        return END
    end = tokens.index(END)
    answer, said = bytes(tokens[:end]).upper(), len(tokens) - end - 1
    return answer[said] if said < len(answer) else END
