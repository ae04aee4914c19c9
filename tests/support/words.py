"""What people are told of a plan or a decision: the words of its facts."""

from __future__ import annotations

from edgellm import explain
from edgellm.types.plan import Decision, LaunchPlan


def said(of: Decision | LaunchPlan) -> list[str]:
    return list(map(explain.sentence, of.reasons))
