"""What a rate is worth to the ranking."""

from __future__ import annotations

import math

from edgellm.selection.scenario import Scenario

# From comfort to so many times as much (chat: 15 to 100 tok/s, an answer of 300 tokens in 20 and in 3 s) speed is worth
# an eighth. Ours: of models a few points apart, the one that answers five times as fast is the better company.
QUICK, QUICK_WORTH = 20 / 3, 0.125


def speed_worth(tps: float, scenario: Scenario) -> float:
    """Worth of a rate, 0 to 1, of which the comfortable rate has 1 / (1 + QUICK_WORTH), and the floor 0.8 of that.

    Proportional below the floor; above comfort each doubling is worth the same, up to the quick rate.
    """
    floor = scenario.floor_tps
    comfort = max(scenario.needs.comfort_tps, floor * 1.001)
    if tps < floor:
        worth = 0.8 * tps / floor
    elif tps < comfort:
        worth = 0.8 + 0.2 * (tps - floor) / (comfort - floor)
    else:
        worth = 1 + QUICK_WORTH * min(1.0, math.log(tps / comfort) / math.log(QUICK))
    return worth / (1 + QUICK_WORTH)
