"""Sampling without sorting draws what a sorted vocabulary would, and leaves the engine's row alone."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from msgspec import structs
from support.refusals import refuses

from edgellm.text.sampling import BINS, NoNumbers, SameDraw, Sampler, until
from edgellm.types.sampling import SamplerValues, Sampling

Row = npt.NDArray[np.float32]
Kept = dict[int, float]
# Around the sizes of the blocks and groups that the sampler works in.
SIZES = (1, 2, 3, 63, 64, 65, 127, 255, 256, 257, 300, 1000, 4095, 4097)


def make_row(size: int, seed: int, scale: float, decimals: int | None, n_masked: int) -> Row:
    """Random logits; rounding makes ties, masked ones are -inf."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(size) * scale
    if decimals is not None:
        values = values.round(decimals)
    values[rng.permutation(size)[: min(n_masked, size - 1)]] = -np.inf
    row = values.astype(np.float32)
    row.flags.writeable = False
    return row


rows = st.builds(
    make_row,
    st.sampled_from(SIZES),
    st.integers(0, 2**32 - 1),
    st.sampled_from((0.0, 0.5, 3.0, 20.0, 200.0)),
    st.sampled_from((None, None, 0, 1)),
    st.sampled_from((0, 0, 1, 50, 5000)),
)
filters = st.builds(
    Sampling,
    temperature=st.sampled_from((0.3, 1.0, 2.5)),
    top_k=st.sampled_from((0, 0, 1, 2, 5, 40, 64, 300, 10_000)),
    top_p=st.sampled_from((1.0, 1.0, 0.95, 0.5, 0.1, 0.001)),
    min_p=st.sampled_from((0.0, 0.0, 0.05, 0.3, 1.0)),
    typical_p=st.sampled_from((1.0, 1.0, 0.95, 0.5, 0.05)),
)


def oracle(row: Row, asked: Sampling) -> Kept:
    """Token -> probability after all filters, by sorting, in double precision.

    Raises:
        CloseCall: a filter cuts within rounding of its bound, where both sides of the cut are right.
    """
    sampling = SamplerValues.of(asked)
    logits = row.astype(np.float64)
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = np.exp((logits - logits.max()) / sampling.temperature)
    weights[weights < 1e-37] = 0.0  # single precision holds less of them, or none
    weight_of = {int(token): float(weights[token]) for token in order if weights[token] > 0}
    if sampling.typical_p < 1.0:
        weight_of = _typical(_normal(weight_of), sampling.typical_p)
    if sampling.top_p < 1.0:
        weight_of = _until(
            _normal(weight_of), sorted(weight_of, key=lambda token: (-weight_of[token], token)), sampling.top_p
        )
    if sampling.min_p > 0.0:
        best = max(weight_of.values())
        _sure(all(p == best or abs(p / best - sampling.min_p) > 1e-5 for p in weight_of.values()))
        weight_of = {token: p for token, p in weight_of.items() if p >= sampling.min_p * best}
    return _normal(weight_of)


class CloseCall(Exception):
    """This example proves nothing."""


def _sure(holds: bool) -> None:
    if not holds:
        raise CloseCall


def _normal(kept: Kept) -> Kept:
    total = math.fsum(kept.values())
    return {token: p / total for token, p in kept.items()}


def _until(kept: Kept, order: list[int], share: float) -> Kept:
    """The first of `order` that reach `share` together."""
    total, subset = 0.0, {}
    for token in order:
        subset[token] = kept[token]
        total += kept[token]
        _sure(abs(total - share) > 1e-5)
        if total >= share:
            break
    return subset


def _typical(kept: Kept, share: float) -> Kept:
    entropy = -math.fsum(p * math.log(p) for p in kept.values())
    surprise = {token: abs(-math.log(p) - entropy) for token, p in kept.items()}
    order = sorted(kept, key=lambda token: (surprise[token], token))
    subset = _until(kept, order, share)
    if len(subset) < len(order):
        last, after = order[len(subset) - 1], order[len(subset)]
        # Equal tokens are ordered by number; of others nearly equal, either may come first.
        _sure(kept[last] == kept[after] or surprise[after] - surprise[last] > 1e-5)
    return subset


class Luck:
    """A generator that draws what it is told."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def drawn(row: Row, sampling: Sampling, luck: float) -> int:
    sampler = Sampler(sampling)
    sampler._random = Luck(luck)  # type: ignore[assignment]
    return sampler.sample(row)


@settings(max_examples=400)
@given(rows, filters)
def test_filters_keep_what_sorting_keeps(row: Row, sampling: Sampling) -> None:
    """Each token kept is met in the middle of its own share, and nothing else is met.

    Tokens are laid end to end by number.
    """
    try:
        expected = oracle(row, sampling)
    except CloseCall:
        reject()
    start = 0.0
    for token in sorted(expected)[:200]:
        if expected[token] > 1e-5:
            token_drawn = drawn(row, sampling, start + expected[token] / 2)
            # Of tokens as good as equal, float32 and the oracle may not order the same one first.
            assert token_drawn == token or expected.get(token_drawn, 0.0) == pytest.approx(expected[token], rel=1e-5)
        start += expected[token]
    for luck in (2**-53, 0.5, 1 - 2**-53):
        assert drawn(row, sampling, luck) in expected


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from((1, 1000, 5000, 3 * BINS)),
    st.sampled_from((None, 2, 0)),
    st.sampled_from((0.0, 1e-300, 1e-12, 1.0, 1e30)),
    st.sampled_from((0.0, 1e-6, 0.3, 0.999999, 2.0)),
)
def test_what_is_needed_for_a_share_is_what_sorting_says(
    seed: int, size: int, decimals: int | None, scale: float, share: float
) -> None:
    """Of keys that are spread, equal, nearly equal, and of some far from all others."""
    rng = np.random.default_rng(seed)
    keys, weights = rng.exponential(size=size) ** 4, rng.integers(1, 100, size).astype(float)
    keys = (keys if decimals is None else keys.round(decimals)) * scale
    order = keys.argsort(kind="stable")
    n = int(weights[order].cumsum().searchsorted(share * weights.sum())) + 1
    assert until(share * weights.sum(), weights, keys).nonzero()[0].tolist() == sorted(order[:n].tolist())


@given(rows)
def test_filters_that_keep_all_are_alike(row: Row) -> None:
    for luck in np.linspace(0, 1, 20, endpoint=False):
        assert drawn(row, Sampling(top_k=len(row) + 1), float(luck)) == drawn(row, Sampling(min_p=1e-45), float(luck))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        pytest.param(Sampling(temperature=0.5, seed=2), marks=pytest.mark.slow(1)),
        Sampling(temperature=3.0, seed=3),
        Sampling(top_k=4, seed=4),
        Sampling(top_p=0.8, seed=5),
        Sampling(min_p=0.2, seed=6),
        Sampling(typical_p=0.7, seed=7),
        Sampling(top_k=6, top_p=0.9, min_p=0.05, temperature=1.5, seed=8),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling: Sampling) -> None:
    """Chi-square against the exact probabilities; 8 tokens, 20,000 draws, one chance in 10,000 to fail wrongly."""
    row = np.array([0.3, 2.0, -1.0, 1.1, 0.0, -np.inf, 1.9, -3.0], np.float32)
    expected = oracle(row, sampling)
    n = 20_000
    sampler = Sampler(sampling)
    counts = Counter(sampler.sample(row) for _ in range(n))
    assert set(counts) <= set(expected)
    chi = sum((counts[token] - n * p) ** 2 / (n * p) for token, p in expected.items())
    critical = {1: 15.1, 2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9, 7: 29.9}[len(expected) - 1]
    assert chi < critical


def test_a_large_vocabulary_is_drawn_from_evenly() -> None:
    """Equal tokens in 24 parts of a vocabulary of many blocks."""
    row = np.zeros(50_000, np.float32)
    sampler = Sampler(Sampling(seed=9))
    n = 12_000
    counts = Counter(sampler.sample(row) * 24 // len(row) for _ in range(n))
    chi = sum((counts[part] - n / 24) ** 2 / (n / 24) for part in range(24))
    assert chi < 56.0  # 23 degrees of freedom, one chance in 10,000


@given(rows)
def test_greedy_takes_the_best_and_of_equals_the_lowest(row: Row) -> None:
    best = next(token for token, value in enumerate(row) if value == row.max())
    assert Sampler(Sampling(temperature=0)).sample(row) == best
    assert Sampler(Sampling(top_k=1, seed=0)).sample(row) == best


def test_a_token_that_is_all_but_impossible_has_no_surprise() -> None:
    """Half of the smallest number that there is would be zero, of which there is no logarithm."""
    row = np.array([0.0, 0.0, -744.4], np.float32)
    assert {Sampler(Sampling(top_k=3, typical_p=0.9, seed=seed)).sample(row) for seed in range(20)} == {0, 1}


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-6])
@pytest.mark.parametrize("more", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.9}], ids=str)
def test_the_coldest_temperatures_are_greedy(temperature: float, more: dict[str, float]) -> None:
    row = np.array([1.0, 5.0, 4.9, -np.inf], np.float32)
    sampling = structs.replace(Sampling(temperature=temperature, seed=1), **more)
    assert {Sampler(sampling).sample(row) for _ in range(20)} == {1}


@given(
    rows,
    st.lists(st.integers(0, 4096), max_size=30),
    st.lists(st.integers(0, 4096), max_size=30),
    st.sampled_from((1.0, 1.3, 0.7)),
    st.sampled_from((0.0, 0.5, -1.0)),
    st.sampled_from((0.0, 0.8, -0.4)),
    st.sampled_from((-1, 0, 1, 5, 64)),
    st.lists(st.tuples(st.integers(0, 5000), st.sampled_from((-100.0, -1.5, 0.0, 7.0))), max_size=4),
)
def test_penalties_and_bias_as_defined(
    row: Row,
    prompt: list[int],
    answer: list[int],
    repetition: float,
    frequency: float,
    presence: float,
    last_n: int,
    bias: list[tuple[int, float]],
) -> None:
    """Repetition over prompt and answer, frequency and presence over the answer, in the window of `penalty_last_n`."""
    prompt, answer = ([token % len(row) for token in tokens] for tokens in (prompt, answer))
    sampling = Sampling(
        temperature=0, repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence,
        penalty_last_n=last_n, logit_bias=tuple(bias),
    )  # fmt: skip
    sampler = Sampler(sampling, prompt)
    for token in answer:
        only = np.full(len(row), -np.inf, np.float32)
        only[token] = 1.0
        assert sampler.sample(only) == token
    expected = row.copy()
    for token, value in bias:
        if token < len(row):
            expected[token] += np.float32(value)
    window = None if last_n == -1 else last_n
    for token in set(_last(prompt + answer, window)):
        value = expected[token]
        expected[token] = value / np.float32(repetition) if value > 0 else value * np.float32(repetition)
    for token, count in Counter(_last(answer, window)).items():
        expected[token] -= np.float32(frequency * count + presence)
    np.testing.assert_allclose(sampler._edited(row), expected, rtol=1e-5, atol=1e-5)


def _last(tokens: list[int], n: int | None) -> list[int]:
    return tokens if n is None else tokens[len(tokens) - min(n, len(tokens)) :]


def test_a_bias_can_force_and_forbid() -> None:
    row = np.array([1.0, 2.0, 3.0], np.float32)
    assert Sampler(Sampling(logit_bias=((0, 100.0),), seed=1)).sample(row) == 0
    forbidden = Sampler(Sampling(logit_bias=((2, -100.0), (1, -100.0), (99, 100.0)), seed=1))
    assert {forbidden.sample(row) for _ in range(50)} == {0}


def test_a_penalty_ends_a_repetition() -> None:
    row = np.array([1.0, 1.5], np.float32)
    sampler = Sampler(Sampling(temperature=0, presence_penalty=1.0))
    assert [sampler.sample(row) for _ in range(3)] == [1, 0, 1]


@pytest.mark.parametrize("sampling", [Sampling(seed=5), Sampling(seed=5, top_p=0.9, top_k=50, repetition_penalty=1.1)])
def test_a_seed_draws_the_same_again(sampling: Sampling) -> None:
    stream = [make_row(300, n, 3.0, None, 0) for n in range(50)]
    one, again = [(s := Sampler(sampling, [1, 2]), [s.sample(row) for row in stream])[1] for _ in range(2)]
    assert one == again
    assert [Sampler(structs.replace(sampling, seed=6)).sample(row) for row in stream] != one


def test_without_a_seed_each_request_draws_its_own() -> None:
    row = np.zeros(10_000, np.float32)
    assert len({Sampler(Sampling()).sample(row) for _ in range(20)}) > 10


EVERY_KIND = [
    Sampling(temperature=0),
    Sampling(seed=1),
    Sampling(seed=1, top_k=2),
    Sampling(seed=1, top_p=0.5, min_p=0.1, typical_p=0.9),
    Sampling(seed=1, repetition_penalty=1.5, logit_bias=((0, 5.0),), presence_penalty=1.0),
]


@pytest.mark.parametrize("sampling", EVERY_KIND, ids=str)
@pytest.mark.parametrize(
    "values", [[1.0, math.nan, 2.0], [math.nan] * 3, [1.0, math.inf, 0.0], [-math.inf] * 3], ids=str
)
def test_nonsense_is_refused(sampling: Sampling, values: list[float]) -> None:
    with refuses(NoNumbers):
        Sampler(sampling, [0, 1]).sample(np.array(values, np.float32))


@given(rows, filters)
def test_the_row_is_never_changed(row: Row, sampling: Sampling) -> None:
    before = row.copy()
    sampler = Sampler(structs.replace(sampling, repetition_penalty=1.2, logit_bias=((0, 1.0),), seed=0), [0])
    for _ in range(3):
        assert 0 <= sampler.sample(row) < len(row)
    assert np.array_equal(before, row)


def test_each_token_of_a_large_vocabulary_has_its_own_share() -> None:
    """Inside a block too: 1,000 equal tokens, met one after the other."""
    row = np.zeros(1000, np.float32)
    assert [drawn(row, Sampling(), (token + 0.5) / 1000) for token in range(1000)] == list(range(1000))


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 100.0, "typical_p": 0.999},
        {"top_k": 40, "top_p": 0.95, "min_p": 0.05},
        {"top_p": 0.999999, "repetition_penalty": 1.3, "frequency_penalty": 0.5, "logit_bias": ((3, 5.0),)},
    ],
    ids=str,
)
def test_what_draws_the_same_looks_at_the_row_once(kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And each draws what it would draw alone."""
    row = np.random.default_rng(5).normal(scale=2, size=4000).astype(np.float32)
    samplings = [Sampling(seed=seed, **kind) for seed in range(20)]
    alone = [Sampler(sampling, (1, 2, 3)).sample(row) for sampling in samplings]
    looked: list[None] = []
    own = Sampler._pick
    monkeypatch.setattr(Sampler, "_pick", lambda *arguments: looked.append(None) or own(*arguments))
    same = SameDraw()
    assert [Sampler(sampling, (1, 2, 3)).sample(row, same=same) for sampling in samplings] == alone
    assert len(looked) == 1
