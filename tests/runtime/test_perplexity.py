"""Perplexity and divergence from what engines say of a text's own tokens, by hand, and from the real model."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.refusals import refuses
from support.toy_engine import VOCAB, ToyEngine

from edgellm.app import launch
from edgellm.contract.engine import EngineInfo, SlotInput
from edgellm.errors import BadArtifact, UsageError, WorkerCrashed
from edgellm.runtime import perplexity
from edgellm.runtime.perplexity import Job
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import SelectionRequest

TEXT = "the rain fell on the harbour and the boats were full of water " * 8
PLAN = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=64))


class Rows(ToyEngine):
    """A toy whose logits are a fixed function of the last token; keeps what was asked of it."""

    def __init__(self, table: np.ndarray, **kind: int) -> None:
        super().__init__(n_slots=1, **kind)
        self.table = table.astype(np.float32)

    def step(self, batch: Sequence[SlotInput]) -> list[np.ndarray]:
        super().step(batch)
        (entry,) = batch
        return [self.table[list(entry.tokens[-entry.n_logits :])]] if entry.n_logits else []


def table(seed: int, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((VOCAB, VOCAB)) * scale


def job(chunk: int = 40, chunks: int = 3) -> Job:
    return Job(PLAN, None, TEXT, chunk, chunks)


def by_hand(engine: Rows, asked: Job) -> tuple[list[int], list[int]]:
    """(token, next token) of every scored place."""
    tokens = engine.tokenizer.encode(asked.text, add_special=False, parse_special=False)
    last, after = [], []
    for number in range(asked.chunks):
        piece = tokens[number * asked.chunk : (number + 1) * asked.chunk]
        last += piece[asked.chunk // 2 : -1]
        after += piece[asked.chunk // 2 + 1 :]
    return last, after


def softmax(rows: np.ndarray) -> np.ndarray:
    weights = np.exp(rows.astype(np.float64))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("n_batch", [3, 16, 32])
def test_perplexity_by_hand(n_batch: int) -> None:
    engine = Rows(table(1), n_batch=n_batch)
    last, after = by_hand(engine, job())
    told: list[perplexity.ScoringProgress] = []
    found = perplexity.compare([engine], job(), told.append)
    expected = math.exp(-np.log(softmax(engine.table[last])[range(len(after)), after]).mean())
    assert found.perplexity == pytest.approx(expected, rel=1e-6)
    assert (found.tokens, found.vocab, found.mean_kl) == (3 * 19, VOCAB, None)
    assert [(p.done, p.of) for p in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1].perplexity == found.perplexity


def test_divergence_by_hand() -> None:
    """Of the reference against the model, over the whole vocabulary; the engines' batches need not be alike."""
    mine, other = Rows(table(1), n_batch=32), Rows(table(1) + table(2, 0.5), n_batch=7)
    last, _ = by_hand(mine, job())
    p, q = softmax(other.table[last]), softmax(mine.table[last])
    kl = (p * np.log(p / q)).sum(-1)
    found = perplexity.compare([mine, other], job(), lambda _: None)
    assert found.mean_kl == pytest.approx(kl.mean(), rel=1e-5)
    assert found.high_kl == pytest.approx(np.quantile(kl, 0.99), rel=1e-5)
    assert found.top_agreement == (p.argmax(-1) == q.argmax(-1)).mean()
    assert 0 < found.top_agreement < 1
    assert found.reference_perplexity != found.perplexity


def test_a_model_does_not_diverge_from_itself() -> None:
    found = perplexity.compare([Rows(table(1)), Rows(table(1))], job(), lambda _: None)
    assert (found.mean_kl, found.top_agreement) == (0.0, 1.0)


def test_logits_that_are_no_numbers_are_a_score_that_vetoes() -> None:
    broken = table(1)
    broken[:] = np.nan
    assert perplexity.compare([Rows(broken)], job(), lambda _: None).perplexity > 1e300


def test_a_text_that_fills_no_chunk_is_refused_with_numbers() -> None:
    with refuses(UsageError, param="perplexity"):
        perplexity.compare([Rows(table(1), n_ctx=2000)], job(chunk=1000), lambda _: None)


def test_another_vocabulary_is_refused() -> None:
    class Other(Rows):
        @property
        def info(self) -> EngineInfo:
            return EngineInfo(1, 256, 32, 32, VOCAB + 1, frozenset())

        @info.setter
        def info(self, _: EngineInfo) -> None: ...

    with refuses(UsageError, param="against"):
        perplexity.compare([Rows(table(1)), Other(table(1))], job(), lambda _: None)


def test_a_missing_file_is_a_typed_error_of_the_other_process(tmp_path: Path) -> None:
    gone = LaunchPlan("gguf", Artifact("gguf", (str(tmp_path / "gone.gguf"),), "gone"), Settings(n_ctx=64))
    with refuses(BadArtifact):
        perplexity.score(Job(gone, None, TEXT, 64, 1))


def test_a_process_that_dies_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "_command", lambda: (sys.executable, "-c", "import os; os.abort()"))
    with refuses(WorkerCrashed, reason="status -6"):
        perplexity.score(Job(PLAN, None, TEXT, 64, 1))


@pytest.mark.slow(4)
def test_the_real_model_reads_english_better_than_noise(smollm2: str) -> None:
    plan = launch.model_plan(smollm2, SelectionRequest(ctx=256, threads=1))
    words = TEXT.split()
    shuffled = " ".join(words[at * 7 % len(words)] for at in range(len(words)))
    english, noise = (perplexity.score(Job(plan, plan, text, 64, 1)) for text in (TEXT, shuffled))
    assert english.perplexity < noise.perplexity
    assert english.perplexity < 60
    assert english.tokens == 31
    assert english.mean_kl == pytest.approx(0, abs=1e-9)
    assert english.top_agreement == 1
