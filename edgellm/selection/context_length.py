"""How many tokens of context to plan for: as asked, else as long as memory and the speed floor allow.

Never silently short: the reason says what bounded it.
"""

from __future__ import annotations

from collections.abc import Callable

from edgellm.selection.option import Option
from edgellm.selection.scenario import SHORTEST_CTX
from edgellm.types.reason import ContextLength

# Steps to try, longest first; finer than powers of two where a machine's last gigabytes decide.
STEPS = (32768, 24576, 16384, 12288, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512)


# Of the speed: a longer context that costs more, as layers have to leave a GPU for it, is not planned unasked.
NEARLY = 0.9


def longest(limit: int, holds: Callable[[int], bool]) -> int:
    """The longest step up to `limit` (itself included) for which `holds`, 0 where none does.

    An encoder may read less at once than the shortest conversation; then its limit is the shortest.
    """
    shortest = min(SHORTEST_CTX, max(1, limit))
    for ctx in (limit, *(step for step in STEPS if step < limit)):
        if ctx >= shortest and holds(ctx):
            return ctx
    return 0


def choose_context(option: Option) -> ContextLength:
    """Tokens per slot for the chosen option, and why."""
    scenario, request = option.scenario, option.scenario.request
    if request.ctx is not None:
        return ContextLength(request.ctx, "asked")
    limit = option.most_ctx
    reads_only = request.task == "embed"
    floor = 0.0 if reads_only else min(scenario.floor_tps, option.decode.tok_s)
    usual = NEARLY * option.rate.tok_s

    def keeps_place(ctx: int) -> bool:
        """Its cache leaves the model where it is fastest."""
        if not option.has_gpu:
            return True
        rates = option.rates_at(ctx)
        return (rates.prefill if reads_only else rates.decode).tok_s >= usual

    def keeps_floor(ctx: int) -> bool:
        return keeps_place(ctx) and option.decode_at(ctx // 2, ctx).tok_s >= floor

    by_memory = longest(limit, option.fits_at)
    # A half-full cache is the ordinary case; the usable minimum is not given up for speed, which was judged before.
    by_speed, needed = longest(by_memory, keeps_floor), min(by_memory, option.needed_ctx)
    ctx = max(by_speed, needed)
    rate = option.decode_at(ctx // 2, ctx).tok_s
    if reads_only:
        return ContextLength(ctx, "encoder" if ctx == limit else "encoder_memory")
    if by_speed < needed < by_memory:
        return ContextLength(ctx, "task", rate, task=request.task, most=limit)
    if ctx < by_memory:
        if keeps_place(by_memory):
            return ContextLength(ctx, "speed", rate, floor, most=limit)
        return ContextLength(ctx, "gpu", rate, most=limit)
    return ContextLength(ctx, "memory", rate, most=limit) if ctx < limit else _all(option, ctx, rate)


def _all(option: Option, ctx: int, rate: float) -> ContextLength:
    """Why no more is planned where there would be room and time."""
    if option.card.ctx_train in (0, ctx):
        return ContextLength(ctx, "trained" if option.card.ctx_train else "unknown", rate)
    task = option.scenario.request.task
    return ContextLength(ctx, "unasked", rate, task=task, ctx_train=option.card.ctx_train)
