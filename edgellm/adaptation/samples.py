"""Held-out answers, as the model that is being tuned gives them: for people, who see more in them than in a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.adaptation.packed import Packed
from edgellm.adaptation.schedule import steps_of_epoch
from edgellm.contract.tuner import Trainer
from edgellm.types.tuning import TuneSample, TuneSettings
from edgellm.types.tuning_data import TrainingPair, TrainingRecord, TrainingText

Spell = Callable[[Sequence[int]], str]  # tokens as text
MOST_SAMPLES = 3
MOST_TOKENS = 24  # of an answer
_MOST_CHARS = 200  # of a question
_SPARE_TOKENS = 2  # beyond the wanted answer
_SHARE = 0.1  # of the tokens that are learned between two looks; reading is a third of that work, or less


@dataclass(frozen=True)
class SampleQuestion:
    """The tokens of a held-out request and of its answer."""

    row: int
    prompt: tuple[int, ...]
    wanted: tuple[int, ...]  # of a long one the beginning
    end: int  # the token that ends the answer

    @property
    def most(self) -> int:
        return len(self.wanted) + _SPARE_TOKENS

    @property
    def work(self) -> int:
        """Tokens that are read for its answer, at most: all anew for each."""
        return self.most * len(self.prompt) + self.most * (self.most - 1) // 2


def questions(held_out: Packed, settings: TuneSettings, rows: Packed) -> list[SampleQuestion]:
    """The first ones, as many as cost little beside the tuning; none of rows that nobody asks for."""
    every = settings.eval_every or steps_of_epoch(settings, rows.n_rows)
    room = _SHARE * every * settings.batch * settings.accumulate * rows.size.n_tokens / rows.n_rows
    chosen: list[SampleQuestion] = []
    for row in range(held_out.n_rows):
        question = _question(held_out, row)
        if question is not None and question.work <= room:
            room -= question.work
            chosen.append(question)
        if len(chosen) == MOST_SAMPLES:
            break
    return chosen


def _question(held_out: Packed, row: int) -> SampleQuestion | None:
    """Its first answer. A text of which all is learned has none."""
    own = slice(int(held_out.starts[row]), int(held_out.starts[row + 1]))
    tokens, supervised = held_out.tokens[own], held_out.supervised[own]
    start = int(np.argmax(supervised))
    end = start + int(np.argmin([*supervised[start:], False]))
    if start < 2:
        return None
    prompt, wanted = (tuple(map(int, part)) for part in (tokens[:start], tokens[start:end]))
    return SampleQuestion(row, prompt, wanted[:MOST_TOKENS], wanted[-1])


def question_of(record: TrainingRecord) -> str:
    """The end of what is said before the first answer that is learned; "" of a text."""
    if isinstance(record, TrainingText):
        return ""
    if isinstance(record, TrainingPair):
        return record.prompt[-_MOST_CHARS:]
    learned = (at for at, m in enumerate(record.messages) if m.role == "assistant" and at not in record.unlearned)
    before = record.messages[: next((at for at in learned if at), 0)]
    return before[-1].content[-_MOST_CHARS:] if before else ""


def sampled(asked: Sequence[SampleQuestion], trainer: Trainer, step: int, spell: Spell) -> Iterator[TuneSample]:
    """Greedy answers, up to the token that ends the wanted one."""
    for question in asked:
        answer: list[int] = []
        while len(answer) < question.most and question.end not in answer[-1:]:
            answer.append(trainer.next_token([*question.prompt, *answer]))
        yield TuneSample(step, question.row, spell(question.wanted), spell(answer))
