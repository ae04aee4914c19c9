"""Sample answers are those of the model at hand, cost little, and change nothing."""

from __future__ import annotations

import msgspec
import pytest
from support import toy_trainer

from edgellm.adaptation.example import Example
from edgellm.adaptation.packing import one_each
from edgellm.adaptation.samples import MOST_SAMPLES, MOST_TOKENS, question_of, questions, sampled
from edgellm.types.message import Message
from edgellm.types.tuning import TuneSample, TuneSettings
from edgellm.types.tuning_data import TrainingChat, TrainingPair, TrainingText

SETTINGS = TuneSettings(batch=8, eval_every=500)


def example(tokens: list[int], n_prompt: int, n_answer: int = 99) -> Example:
    import numpy as np

    places = np.arange(len(tokens))
    return Example(np.array(tokens, np.int32), (places >= n_prompt) & (places < n_prompt + n_answer))


def test_the_first_ones_that_somebody_asks() -> None:
    held_out = one_each([
        example([1, 2, 3], 1),  # a text: all of it is learned
        example([1, 2, 3, 4, 5, 6], 3, 2),  # two answers, of which the first is taken
        example([1, 2, 3], 2),
        example([5] * 40, 5),
        example([1, 2, 3], 2),
    ])  # fmt: skip
    first, second, third = questions(held_out, SETTINGS, toy_trainer.rows(2000))

    assert (first.row, first.prompt, first.wanted, first.end) == (1, (1, 2, 3), (4, 5), 5)
    assert (second.row, third.row) == (2, 3)
    assert len(third.wanted) == MOST_TOKENS


@pytest.mark.parametrize(("every", "n"), [(1, 0), (3, 1), (1000, MOST_SAMPLES)])
def test_they_are_a_small_share_of_what_is_learned_meanwhile(every: int, n: int) -> None:
    held_out = one_each([example([1] * 8, 7) for _ in range(10)])
    rows = toy_trainer.rows(400)
    settings = msgspec.structs.replace(SETTINGS, eval_every=every)

    chosen = questions(held_out, settings, rows)
    assert len(chosen) == n
    learned = every * settings.batch * rows.size.n_tokens / rows.n_rows
    assert sum(question.work for question in chosen) <= 0.1 * learned


def test_answers_are_greedy_up_to_the_end() -> None:
    trainer = toy_trainer.ToyTrainer(TuneSettings())
    trainer.table[:] = 0
    for before, token in ((3, 4), (4, 5), (5, 6), (9, 9)):
        trainer.table[before, token] = 1
    held_out = one_each([example([1, 2, 3, 4, 5], 3), example([1, 2, 9, 4], 3)])
    asked = questions(held_out, SETTINGS, toy_trainer.rows(2000))

    assert list(sampled(asked, trainer, 7, lambda tokens: " ".join(map(str, tokens)))) == [
        TuneSample(7, 0, "4 5", "4 5"),
        TuneSample(7, 1, "4", "9 9 9"),
    ]


def test_what_was_asked() -> None:
    chat = (Message("system", "Be brief."), Message("user", "x" * 300), Message("assistant", "y"))

    assert question_of(TrainingChat(1, chat)) == "x" * 200
    assert question_of(TrainingChat(1, chat, unlearned=frozenset({2}))) == ""
    assert question_of(TrainingPair(1, "why", "so")) == "why"
    assert question_of(TrainingText(1, "all of it")) == ""
