"""Whether and how much a model thinks before it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from edgellm.errors import UsageError

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[ReasoningEffort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# Of the tokens that the answer may have, thinking included. "xhigh" and "max" end on their own.
BUDGET_SHARES: dict[ReasoningEffort, float] = {"minimal": 1 / 16, "low": 1 / 4, "medium": 1 / 2, "high": 3 / 4}
_SWITCHES = ("enable_thinking", "thinking")  # of templates


def thinks_first(
    thinking: bool | None, effort: ReasoningEffort | None, variables: Mapping[str, Any], *, served: bool
) -> bool:
    """Whether a model that can think or not is to think.

    Args:
        variables: the template's own that the request sets; a switch among them counts as `thinking`.
        served: where the request leaves it open.

    Raises:
        UsageError: an unknown effort, or they disagree.
    """
    if effort is not None and effort not in EFFORTS:
        hint = f"one of: {', '.join(EFFORTS)}"
        raise UsageError(f"unknown reasoning_effort {effort!r}"[:80], hint=hint, param="reasoning_effort")
    switch = next((variables[name] for name in _SWITCHES if isinstance(variables.get(name), bool)), None)
    asked = {
        answer for answer in (thinking, switch, None if effort is None else effort != "none") if answer is not None
    }
    if len(asked) > 1:
        what = f"thinking={thinking}, reasoning_effort={effort!r} and the template's variables disagree"
        raise UsageError(what, hint="send one of them", param="reasoning_effort")
    return bool(asked.pop()) if asked else served


def thinking_budget(effort: ReasoningEffort | None, most: int) -> int | None:
    """Most tokens of thinking in an answer of at most so many; None = as many as it wants."""
    share = BUDGET_SHARES.get(effort) if effort else None
    return None if share is None else max(1, int(share * most))
