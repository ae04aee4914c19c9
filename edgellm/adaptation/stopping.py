"""When held-out rows say that more steps help no more."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.types.tuning import TuneEvaluation


def best(evaluations: Sequence[TuneEvaluation]) -> TuneEvaluation | None:
    """The one with the lowest loss, the earlier of two equal ones."""
    return min(evaluations, key=lambda evaluation: (evaluation.loss, evaluation.step), default=None)


def is_over(evaluations: Sequence[TuneEvaluation], patience: int) -> bool:
    """Whether so many evaluations in a row, or more, were no better than the best before them. 0 = never."""
    first = best(evaluations)
    if not patience or first is None:
        return False
    return sum(evaluation.step > first.step for evaluation in evaluations) >= patience
