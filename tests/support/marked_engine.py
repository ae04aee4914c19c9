"""An engine that says its prompt back, control tokens too: what a model would write, by the test's own words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgellm.builtin.echo import CERTAIN, END, ByteTokenizer, EchoEngine, _next
from edgellm.contract.engine import SlotInput
from edgellm.types.plan import Settings

if TYPE_CHECKING:
    from edgellm.contract.engine import Logits

CONTROL = {257: "<think>", 258: "</think>", 259: "<tool_call>", 260: "</tool_call>", 261: "<other>"}
VOCAB = 262
_MARKS = re.compile("(" + "|".join(CONTROL.values()) + ")")
_IDS = {text: token for token, text in CONTROL.items()}


class MarkedTokenizer(ByteTokenizer):
    """One token a byte, and a few control tokens."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokens: list[int] = []
        for part in _MARKS.split(text) if parse_special else [text]:
            tokens += [_IDS[part]] if part in _IDS and parse_special else part.encode()
        return [*tokens, END] if add_special else tokens

    def text(self, token: int) -> str:
        return CONTROL.get(token) or super().text(token)

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        plain, special = super().pieces()
        return [*plain, *(text.encode() for text in CONTROL.values())], special | CONTROL.keys()


class MarkedEngine(EchoEngine):
    """Keeps the batches in `steps`."""

    def __init__(self, n_slots: int = 1, n_batch: int = 512) -> None:
        super().__init__(Settings(n_ctx=512, n_slots=n_slots, n_batch=n_batch))
        self.tokenizer = MarkedTokenizer()
        self.info = replace(self.info, vocab_size=VOCAB)
        self.steps: list[tuple[SlotInput, ...]] = []

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        self.steps.append(tuple(batch))
        return super().step(batch)

    def _logits(self, tokens: list[int], n_logits: int) -> Logits:
        rows = np.zeros((n_logits, VOCAB), np.float32)
        for row in range(n_logits):
            rows[row, _next(tokens[: len(tokens) - n_logits + row + 1])] = CERTAIN
        return rows
