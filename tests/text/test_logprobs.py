"""Logprobs against softmax in extended precision."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.text.logprobs import IMPOSSIBLE, of_token


def reference(row: np.ndarray) -> np.ndarray:
    exact = row.astype(np.longdouble)
    return np.log(np.exp(exact - exact.max()) / np.exp(exact - exact.max()).sum())


@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_logprobs_are_the_logarithm_of_softmax(scale: float) -> None:
    row = np.random.default_rng(1).normal(scale=scale, size=50_000).astype(np.float32)
    exact = reference(row)
    told = of_token(row, 77, 20, lambda token: b"%d" % token)

    assert told.chosen.logprob == pytest.approx(float(exact[77]), abs=1e-9)
    assert [one.token for one in told.top] == list(np.argsort(-row, kind="stable")[:20])
    assert [one.logprob for one in told.top] == pytest.approx([float(exact[one.token]) for one in told.top], abs=1e-9)
    assert told.top[0].piece == b"%d" % told.top[0].token


def test_an_impossible_token_has_a_number_that_json_has() -> None:
    row = np.array([0.0, -np.inf, 1.0], dtype=np.float32)
    assert of_token(row, 1, 3, lambda _: b"").chosen.logprob == IMPOSSIBLE


def test_no_alternatives_and_more_than_there_are() -> None:
    row = np.array([0.0, 1.0], dtype=np.float32)
    assert of_token(row, 0, 0, lambda _: b"").top == ()
    assert [one.token for one in of_token(row, 0, 20, lambda _: b"").top] == [1, 0]
