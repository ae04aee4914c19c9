"""How many conversations to plan for at the same time: as asked, else as many as memory and the speed floor allow.

Model, quantization and context are chosen for one conversation, so that more of them never lead to a worse choice.
"""

from __future__ import annotations

from edgellm.selection.option import Option
from edgellm.types.reason import SlotCount

# Each slot's cache is resident from the start, so more are planned only where they are asked for.
MOST_UNASKED = 4


def choose_slots(option: Option, ctx: int) -> SlotCount | None:
    """Slots of `ctx` tokens for the chosen option, and what bounds them; None where their number was asked for."""
    scenario = option.scenario
    if scenario.request.slots is not None:
        return None
    if scenario.request.task == "embed":
        return SlotCount(1, "reads")
    floor = scenario.floor_tps
    for n_slots in range(2, MOST_UNASKED + 1):
        fewer, busy_tps = n_slots - 1, option.busy_tps(n_slots, ctx // 2)
        more = option.with_slots(n_slots)
        if not more.fits_at(ctx):
            return SlotCount(fewer, "memory", ctx, option.busy_tps(fewer, ctx // 2))
        # Their caches must not push layers off GPUs; from one to another they may.
        alone, placed = option.placed_at(ctx), more.placed_at(ctx)
        if placed.layers < alone.layers or placed.experts_away > alone.experts_away:
            return SlotCount(fewer, "gpu", ctx, option.busy_tps(fewer, ctx // 2))
        if busy_tps < floor:
            return SlotCount(fewer, "speed", ctx, option.busy_tps(fewer, ctx // 2), busy_tps, floor)
    return SlotCount(MOST_UNASKED, "most", ctx, option.busy_tps(MOST_UNASKED, ctx // 2))
