"""How many tokens of context to plan for: as asked, else as long as memory and the speed floor allow.

Never silently short: the reason says what bounded it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgellm import explain
from edgellm.errors import NothingFits
from edgellm.estimate import footprint
from edgellm.selection.option import Option
from edgellm.selection.scenario import SHORTEST_CTX, Scenario
from edgellm.types.machine import Machine
from edgellm.types.model import Shape
from edgellm.types.plan import Footprint
from edgellm.types.reason import CacheType, ContextLength
from edgellm.types.request import SelectionRequest
from edgellm.units import show_memory

# Steps to try, longest first; finer than powers of two where a machine's last gigabytes decide.
STEPS = (32768, 24576, 16384, 12288, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512)


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
    limit = min(option.card.ctx_train, scenario.needs.max_ctx)
    reads_only = request.task == "embed"
    floor = 0.0 if reads_only else min(scenario.floor_tps, option.decode.tok_s)

    def fits(ctx: int) -> bool:
        return option.fits_at(ctx)

    def keeps_floor(ctx: int) -> bool:
        return option.decode_at(ctx // 2).tok_s >= floor

    by_memory = longest(limit, fits)
    # A half-full cache is the ordinary case; the usable minimum is not given up for speed, which was judged before.
    ctx = max(longest(by_memory, keeps_floor), min(by_memory, option.needed_ctx))
    rate = option.decode_at(ctx // 2).tok_s
    if reads_only:
        return ContextLength(ctx, "encoder" if ctx == limit else "encoder_memory")
    if ctx < by_memory:
        return ContextLength(ctx, "speed", rate, floor)
    if ctx < limit:
        return ContextLength(ctx, "memory", rate)
    if limit == option.card.ctx_train:
        return ContextLength(ctx, "trained", rate)
    return ContextLength(ctx, "unasked", rate, task=request.task, ctx_train=option.card.ctx_train)


def fit_cache(  # noqa: PLR0917
    machine: Machine,
    shape: Shape,
    ctx_train: int,
    tensor_bytes: int,
    request: SelectionRequest,
    kv_types: Sequence[str],
    placed: Callable[[Footprint], Footprint] = lambda whole: whole,
) -> tuple[ContextLength, str, CacheType | None]:
    """Tokens per slot and type of cache for a model file that is already at hand, and why.

    The first of `kv_types` that holds the context asked for, or the one that the task needs; where none does, the first
    with as much as it holds.

    Raises:
        NothingFits: none holds the shortest context, or the one asked for.
    """
    needed = Scenario.of(machine, request).needed_ctx(ctx_train or request.ctx or SHORTEST_CTX)
    usable: list[tuple[ContextLength, str, CacheType | None]] = []
    for kv_type in kv_types:
        try:
            context = fit_context(machine, shape, ctx_train, tensor_bytes, request, placed, kv_type)
        except NothingFits:
            if kv_type == kv_types[-1] and not usable:
                raise
            continue
        cache = CacheType(kv_type, "asked") if request.kv_type else None
        if kv_type != kv_types[0]:
            cache = CacheType(kv_type, "context", higher=kv_types[0], ctx=needed)
        usable.append((context, kv_type, cache))
        if context.ctx >= needed:
            return usable[-1]
    return usable[0]


def fit_context(  # noqa: PLR0917
    machine: Machine,
    shape: Shape,
    ctx_train: int,
    tensor_bytes: int,
    request: SelectionRequest,
    placed: Callable[[Footprint], Footprint] = lambda whole: whole,
    kv_type: str = "f16",
) -> ContextLength:
    """Tokens per slot for a model file that is already at hand, and why. `ctx_train` 0 = not known.

    `placed` gives what is left in RAM of a footprint.

    Raises:
        NothingFits: not even the shortest context (or the one asked for) fits the budget.
    """
    scenario = Scenario.of(machine, request)

    def needs(ctx: int) -> int:
        whole = footprint.footprint(shape, tensor_bytes, ctx, request.slots, kv_type)
        return footprint.counted_bytes(placed(whole), machine)

    limit = min(ctx_train or scenario.needs.max_ctx, scenario.needs.max_ctx) if request.ctx is None else request.ctx
    shortest = min(SHORTEST_CTX, limit) if request.ctx is None else request.ctx
    ctx = longest(limit, lambda n: needs(n) <= scenario.budget_bytes) if request.ctx is None else limit
    if ctx == 0 or needs(ctx) > scenario.budget_bytes:
        raise NothingFits(
            f"the model needs {show_memory(needs(shortest))} with {shortest:,} tokens of context and {request.slots} "
            f"slots, and may use {explain.budget(scenario.budget)}",
            hint="close other programs, ask for less with --ctx or --slots, or see `edgellm auto-select`",
        )
    if request.ctx is not None:
        return ContextLength(ctx, "asked")
    if ctx < limit:
        return ContextLength(ctx, "memory", budget=scenario.budget)
    if limit == ctx_train:
        return ContextLength(ctx, "trained")
    return ContextLength(ctx, "unasked", task=request.task)
