"""A tuner without a library: a table of logits by the token before, learned by gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgellm.adaptation.example import Example
from edgellm.adaptation.packed import Packed
from edgellm.adaptation.packing import pack
from edgellm.contract.tuner import Arrays, Batch
from edgellm.errors import BadArtifact
from edgellm.types.tuning import TuneSettings

VOCAB = 16


class ToyTrainer:
    """Drops some of the tokens at random, so that a lost random state shows."""

    def __init__(self, settings: TuneSettings, build: str = "toy 1", vocab: int = VOCAB) -> None:
        self._random = np.random.Generator(np.random.PCG64(settings.seed))
        self.table = self._random.normal(size=(vocab, vocab)).astype(np.float32)
        self._momentum = np.zeros_like(self.table)
        self.build = build
        self.n_trained = self.table.size
        self.rates: list[float] = []

    def step(self, batches: Sequence[Batch], learning_rate: float) -> float:
        gradient, total, n_supervised = np.zeros_like(self.table), 0.0, 0
        for batch in batches:
            before, token = _pairs(batch)
            kept = self._random.random(len(token)) < 0.9
            logprobs = _logprobs(self.table[before])
            total -= float(logprobs[np.arange(len(token)), token].sum())
            rows = np.exp(logprobs)
            rows[np.arange(len(token)), token] -= 1
            np.add.at(gradient, before[kept], rows[kept])
            n_supervised += len(token)
        self._momentum = 0.9 * self._momentum + gradient / n_supervised
        self.table -= np.float32(learning_rate) * self._momentum
        self.rates.append(learning_rate)
        return total / n_supervised

    def loss(self, batch: Batch) -> float:
        before, token = _pairs(batch)
        return -float(_logprobs(self.table[before])[np.arange(len(token)), token].sum())

    def next_token(self, tokens: Sequence[int]) -> int:
        return int(self.table[tokens[-1]].argmax())

    def state(self) -> Arrays:
        state = self._random.bit_generator.state["state"]
        words = [state[name] >> shift & (2**64 - 1) for name in ("state", "inc") for shift in (0, 64)]
        return {"table": self.table, "momentum": self._momentum, "random": np.array(words, np.uint64)}

    def restore(self, state: Arrays) -> None:
        if {*state} != {"table", "momentum", "random"} or state["table"].shape != self.table.shape:
            raise BadArtifact("this is not the state of a toy")
        self.table, self._momentum = state["table"].copy(), state["momentum"].copy()
        low, high, inc_low, inc_high = map(int, state["random"])
        own = self._random.bit_generator.state
        own["state"] = {"state": high << 64 | low, "inc": inc_high << 64 | inc_low}
        self._random.bit_generator.state = own

    def factors(self) -> Arrays:
        return {"table": self.table}

    def close(self) -> None: ...


def _pairs(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    assert not batch.supervised[batch.positions == 0].any()
    rows, places = np.nonzero(batch.supervised)
    return batch.tokens[rows, places - 1], batch.tokens[rows, places]


def _logprobs(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def examples(n: int, seed: int = 0) -> list[Example]:
    """Ascending runs of tokens, of 2 to 9 tokens; the first two are not supervised."""
    random = np.random.Generator(np.random.PCG64(seed))
    made = []
    for line in range(1, n + 1):
        tokens = (random.integers(VOCAB) + np.arange(random.integers(3, 10))) % VOCAB
        made.append(Example(tokens.astype(np.int32), np.arange(len(tokens)) > 1, line))
    return made


def rows(n: int, length: int = 16, seed: int = 0) -> Packed:
    return pack(examples(n, seed), length)
