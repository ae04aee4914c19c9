"""The part of a backend's contract that is about slots that are cut and forked.

One row far behind the cut would not do: a model with a short memory (n-grams, a sliding window) has forgotten there
what stands before it. So rows are compared from the first token on, in a text that the model itself predicts, and it is
proved first that they would show a prefix that is wrong by a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from edgellm.contract.engine import SlotInput
from edgellm.testing.limit import limited
from edgellm.testing.rows import RowTests, largest_difference
from edgellm.testing.tokens import TEXTS, beginning, encode, last_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.engine import Engine

N_PREFIX = 6  # tokens that a cut or a fork keeps
N_BEHIND = 14  # tokens that it takes away
N_ROWS = 10  # an engine that repeats its prompt (echo) has told all of the prefix by then


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    prefix: list[int]
    behind: list[int]  # what stands behind the prefix until it is cut
    answer: list[int]  # what the model says after the prefix
    rows: npt.NDArray[np.float32]  # (N_ROWS, vocab_size): after the prefix and each token of the answer
    wrong: dict[str, npt.NDArray[np.float32]]  # the same after prefixes that are wrong by a token

    @property
    def least_seen(self) -> str:
        """Of the wrong prefixes."""
        return min(self.wrong, key=lambda name: largest_difference(self.rows, self.wrong[name]))


@limited
class PrefixTests(RowTests):
    """The fixture `engine` is the class's own."""

    def test_truncate_leaves_nothing_behind(self, engine: Engine) -> None:
        text = self.telling(engine)
        engine.step([SlotInput(1, 0, (*text.prefix, *text.behind), 0)])
        n_kept = engine.truncate(1, N_PREFIX)
        assert n_kept in (N_PREFIX, 0), (
            f"truncate(1, {N_PREFIX}) says that {n_kept} tokens are left; {N_PREFIX} are expected, or 0"
        )
        rows = last_rows(engine, 1, [*text.prefix, *text.answer], N_ROWS, n_kept)
        what = f"a fresh slot and one that was cut to {N_PREFIX} tokens, after the same text"
        self.assert_same(text.rows, rows, engine, what)

    def test_fork_gives_the_prefix_and_nothing_else(self, engine: Engine) -> None:
        text = self.telling(engine)
        source, target = [*text.prefix, *text.behind], encode(engine, TEXTS[2])[: N_PREFIX + N_BEHIND]
        engine.step([SlotInput(0, 0, tuple(source), 0), SlotInput(1, 0, tuple(target), 0)])
        n_kept = forked(engine, 0, 1, N_PREFIX)
        assert n_kept in (N_PREFIX, 0), (
            f"fork(0, 1, {N_PREFIX}) says that the target has {n_kept} tokens; {N_PREFIX} are expected, or 0"
        )
        rows = last_rows(engine, 1, [*text.prefix, *text.answer], N_ROWS, n_kept)
        what = f"a fresh slot and one that was forked at {N_PREFIX} tokens, after the same text"
        self.assert_same(text.rows, rows, engine, what)
        # The source still has all of its own.
        rows = last_rows(engine, 0, [*source, *text.answer], N_ROWS, len(source))
        what = "a fresh slot and one that another was forked from, after the same text"
        self.assert_same(last_rows(engine, 2, [*source, *text.answer], N_ROWS), rows, engine, what)

    def telling(self, engine: Engine) -> _Text:
        """One whose rows are others after every prefix that is wrong by a token. Slots are empty before and after.

        It is one of TEXTS where it can be. Of those a model of n-grams may know nothing, but it knows what it says.
        """
        __tracebackhide__ = True
        for text in _texts(engine):
            wrong = text.wrong[text.least_seen]
            if largest_difference(text.rows, wrong) > self.allowed(engine):
                break
        what = f"after {N_PREFIX} tokens and after {text.least_seen}"
        self.assert_differ(text.rows, wrong, engine, what, "a prefix that is wrong by a token cannot be found")
        return text


def _texts(engine: Engine) -> Iterator[_Text]:
    for number, text in enumerate(TEXTS):
        yield _text(engine, encode(engine, text)[:N_PREFIX], encode(engine, TEXTS[number - 1])[:N_BEHIND])
    for text in TEXTS:
        said = _answer(engine, beginning(engine, text), N_ROWS + N_PREFIX)
        yield _text(engine, said[-N_PREFIX:], encode(engine, text)[:N_BEHIND])


def _text(engine: Engine, prefix: list[int], behind: list[int]) -> _Text:
    answer = _answer(engine, prefix, N_ROWS)
    other = next(token for token in behind if token != prefix[-1])
    wrong = {
        "the same with another one at the end": [*prefix[:-1], other],
        "the same shifted by one": [*prefix[1:], behind[0]],
        "all but the last": prefix[:-1],
        "one more": [*prefix, behind[0]],
    }
    rows, *others = (_fresh(engine, tokens, answer) for tokens in (prefix, *wrong.values()))
    return _Text(prefix, behind, answer, rows, dict(zip(wrong, others, strict=True)))


def _answer(engine: Engine, prompt: list[int], n_tokens: int) -> list[int]:
    """The likeliest tokens after the prompt."""
    tokens = list(prompt)
    for n_past in (0, *range(len(prompt), len(prompt) + n_tokens - 1)):
        tokens.append(int(last_rows(engine, 2, tokens, 1, n_past)[0].argmax()))
    engine.truncate(2, 0)
    return tokens[len(prompt) :]


def _fresh(engine: Engine, prefix: list[int], answer: list[int]) -> npt.NDArray[np.float32]:
    rows = last_rows(engine, 2, [*prefix, *answer], N_ROWS)
    engine.truncate(2, 0)
    return rows


def forked(engine: Engine, source: int, target: int, n_tokens: int) -> int:
    """What `fork` returns."""
    __tracebackhide__ = True
    try:
        return engine.fork(source, target, n_tokens)
    except NotImplementedError:
        call = f"fork({source}, {target}, {n_tokens})"
        pytest.fail(f"{call} raises NotImplementedError; of an engine that cannot fork, 0 is expected", pytrace=False)
