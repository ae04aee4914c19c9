"""When held-out rows say that more steps help no more, and which step is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgellm.types.tuning import TuneEvaluation


def best(evaluations: Sequence[TuneEvaluation]) -> TuneEvaluation | None:
    """The last one whose loss is above the lowest by no more than the standard error of the difference.

    Few rows are held out, so among steps that are as good as each other the lowest loss is luck, and the later one has
    learned more, at a lower rate. The rule is that of Breiman, Friedman, Olshen and Stone (1984) for trees.
    """
    first = _lowest(evaluations)
    kept = (later for later in evaluations if first is not None and _is_as_good(later, first))
    return max(kept, key=lambda evaluation: evaluation.step, default=None)


def is_over(evaluations: Sequence[TuneEvaluation], patience: int) -> bool:
    """Whether so many evaluations in a row, or more, were no better than the lowest before them. 0 = never."""
    first = _lowest(evaluations)
    if not patience or first is None:
        return False
    return sum(evaluation.step > first.step for evaluation in evaluations) >= patience


def _lowest(evaluations: Sequence[TuneEvaluation]) -> TuneEvaluation | None:
    return min(evaluations, key=lambda evaluation: (evaluation.loss, evaluation.step), default=None)


def _is_as_good(later: TuneEvaluation, lowest: TuneEvaluation) -> bool:
    if later.step <= lowest.step:
        return later is lowest
    differences = [after - before for after, before in zip(later.losses, lowest.losses, strict=True)]
    n, total = len(differences), sum(differences)
    if n < 2:
        return total <= 0
    spread = sum((difference - total / n) ** 2 for difference in differences)
    return total <= math.sqrt(n / (n - 1) * spread)
