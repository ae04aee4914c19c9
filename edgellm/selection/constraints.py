"""The rules that drop what will not do; see `edgellm.selection.rules` for their order."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm import explain
from edgellm.errors import NothingFits, option
from edgellm.estimate.quants import LOW_BITS
from edgellm.selection.context_length import longest
from edgellm.selection.option import Option
from edgellm.selection.rule_result import RuleResult, lowering, split
from edgellm.selection.scenario import SHORTEST_CTX, Scenario
from edgellm.types import criterion, refusal
from edgellm.types.basis import rate_kind
from edgellm.types.model_reason import FewerBitsTaken
from edgellm.types.reason import RequestedBudget, ShorterContext, Slow
from edgellm.units import counted, show_memory, show_rate, show_size

LOW_SHARE = 1 / 3  # a file is a 2- or 3-bit file if more of its weights than this are; 4-bit mixes have none


def passed_its_check(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """What `edgellm bench` found unfit, against a higher quantization, is not chosen again."""
    return split(options, lambda o: criterion.Stated(o.veto) if o.veto else None, criterion.QualityChecked())


def trained_context(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Beyond its trained length a model's answers fall apart, so the length asked for is a constraint."""
    asked = scenario.request.ctx
    if asked is None:
        return RuleResult(tuple(options))
    if options and all(o.is_trained_for_less(asked) for o in options):
        best = max(options, key=lambda o: (o.card.ctx_train, o.model))
        most = best.card.ctx_train
        if all(o.model == best.model for o in options):
            what = f"{best.model} was trained for {most:,} tokens of context, {asked:,} are asked for"
        else:
            what = f"no model was trained for {asked:,} tokens of context; the most is {most:,}, by {best.model}"
        raise NothingFits(what, hint=f"try `{option('ctx', most)}`")
    return split(
        options,
        lambda o: refusal.TrainedForLess(o.card.ctx_train, asked) if o.is_trained_for_less(asked) else None,
        criterion.TrainedContext(asked),
    )


def small_download(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """What is on this disk costs no download; of the rest, no more than the request allows."""
    limit = scenario.request.max_download_bytes
    if limit is None:
        return RuleResult(tuple(options))
    result = split(
        options,
        lambda o: refusal.LargeDownload(o.download_bytes, limit) if o.download_bytes > limit else None,
        criterion.SmallDownload(limit),
    )
    if options and not result.kept:
        least = min(options, key=lambda o: (o.download_bytes, o.model))
        raise NothingFits(
            f"nothing can be had with at most {show_size(limit)} to fetch; the smallest, {least.model} {least.quant}, "
            f"takes {show_size(least.download_bytes)}",
            hint=f"try `{option('max_download', f'{least.download_bytes // 10**6 + 1}MB')}`",
        )
    return result


def fits_memory(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Weights, cache, buffers and process must fit the budget, with the context asked for or at least the shortest."""

    def over(o: Option) -> refusal.RuleRefusal | None:
        ctx = scenario.request.ctx or min(SHORTEST_CTX, o.most_ctx)
        # Weights alone settle most cases without computing a footprint, where no GPU takes some of them.
        if too_heavy(o):
            return _too_big(o, o.tensor_bytes, ctx)
        # What fits with what the task needs, fits with less: most is asked for once.
        if o.fits_at(max(ctx, o.needed_ctx)) or o.fits_at(ctx):
            return None
        return o.placed_at(ctx).problem or _too_big(o, o.counted_at(ctx), ctx)

    def too_heavy(o: Option) -> bool:
        return o.tensor_bytes > scenario.budget_bytes and not o.has_gpu

    def hopeless(o: Option) -> bool:
        return too_heavy(o) or _without_cache(o, scenario.request.ctx or SHORTEST_CTX) > scenario.budget_bytes

    result = lowering(options, over, criterion.FitsBudget(scenario.budget_bytes), hopeless=hopeless)
    if options and not result.kept:
        raise _nothing_fits(options, scenario)
    return result


def coherent_bits(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Rule 2: "choose it only where nothing else fits, and prefer a smaller model at 4 bits over a bigger one at 2".

    What counts is what the weights are really stored in, not the name: short rows fall back to more bits. Models that
    were trained in a low-bit type are not compressed and not meant.
    """
    result = split(
        options,
        lambda o: None if o.is_native or o.low_bit_share <= LOW_SHARE else refusal.FewBits(o.low_bit_share, LOW_BITS),
        criterion.EnoughBits(LOW_BITS),
    )
    if options and not result.kept:
        return RuleResult(tuple(options), reason=FewerBitsTaken(LOW_BITS))
    return result


def usable_context(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """A bigger model with no room for a conversation is worse than a smaller one with room."""
    needed = scenario.needs.min_ctx

    def short(o: Option) -> refusal.RuleRefusal | None:
        if not o.fits_at(o.needed_ctx):
            return o.placed_at(o.needed_ctx).problem or _too_big(o, o.counted_at(o.needed_ctx), o.needed_ctx)
        if scenario.request.ctx is None and o.is_trained_for_less(needed):
            return refusal.TrainedForLess(o.card.ctx_train, needed, scenario.request.task)
        return None

    def hopeless(o: Option) -> bool:
        return o.is_trained_for_less(needed) or _without_cache(o, o.needed_ctx) > scenario.budget_bytes

    result = lowering(options, short, criterion.RoomForContext(scenario.request.ctx or needed), hopeless=hopeless)
    if not options or result.kept or scenario.request.ctx is not None:
        return result
    # No type of cache holds that context, so no better type is given up for it.
    reach = [longest(o.needed_ctx, o.fits_at) for o in options]
    # Half the longest context with a better model is worth more than all of it.
    enough = max(reach) / 2
    kept = tuple(o for o, ctx in zip(options, reach, strict=True) if ctx >= enough)
    shorter = (o for o, ctx in zip(options, reach, strict=True) if ctx < enough)
    dropped = tuple((o, why) for o in shorter if (why := short(o)) is not None)
    return RuleResult(kept, dropped, ShorterContext(needed, scenario.request.task))


def reaches_floor(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Slower than the floor is not usable.

    A floor that the user set is a promise of the machine when nothing else runs: it is kept, or refused. Beside other
    programs, which may be done at any time, a reason says what it is then. The floor of the task gives way, because a
    user with a slow machine still wants the best answer that it can give. The user is told.
    """
    floor = scenario.floor_tps

    def slow(o: Option) -> refusal.TooSlow:
        return refusal.TooSlow(o.rate.tok_s, o.useful_tps, floor, rate_kind(o.rate.basis), o.thinks, o.kv_type)

    def hopeless(o: Option) -> bool:
        if scenario.request.task == "embed" or o.facts.calibration is None:
            return True
        return o.decode_at(0).tok_s * o.useful_tps < floor * o.decode.tok_s

    asked = criterion.ReachesFloor(floor, scenario.request.task)
    result = lowering(options, lambda o: None if o.answers_at(floor) else slow(o), asked, hopeless=hopeless)
    if not options or result.kept:
        return result
    best = max(o.useful_tps for o in options)
    if scenario.request.min_tps is not None:
        fastest = max(options, key=lambda o: (o.useful_tps, o.model))
        alone = " when nothing else runs" if scenario.threads_beside is not None else ""
        raise NothingFits(
            f"nothing reaches {show_rate(floor)} tok/s on {scenario.machine.name}; the fastest that fits is "
            f"{fastest.model} {fastest.quant} at a predicted {show_rate(best)}{alone}",
            hint=f"try `{option('min_tps', float(f'{best * 0.95:.2g}'))}`",
        )
    # Within a tenth of the fastest the better model is worth more than the difference.
    kept = tuple(o for o in options if o.useful_tps >= 0.9 * best)
    dropped = tuple((o, slow(o)) for o in options if o.useful_tps < 0.9 * best)
    return RuleResult(kept, dropped, Slow(floor, best))


def worth_its_bytes(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Rule 2: "smaller, not faster". Drops what another file of the model beats in bytes, speed and quality.

    A file on this disk is beaten only by another one there: which is worth fetching is decided later.
    """

    by_model: dict[tuple[str, str], list[tuple[tuple[float, float], bool, Option]]] = {}
    for o in options:
        # Each the better, the higher.
        own = ((-o.tensor_bytes, o.kept.mid), o.download_bytes > 0, o)
        by_model.setdefault((o.model, o.backend), []).append(own)

    def beaten(o: Option) -> refusal.Dominated | None:
        less, kept = -o.tensor_bytes, o.kept.mid
        is_here = not o.download_bytes
        for (other_less, other_kept), is_fetched, other in by_model[o.model, o.backend]:
            if other_less < less or other_kept < kept or other is o or (is_fetched and is_here):
                continue
            # Speed is asked for last, as it costs most.
            own, others = o.rate.tok_s, other.rate.tok_s
            if others > own or (others == own and (other_less, other_kept) != (less, kept)):
                return refusal.Dominated(other.quant)
        return None

    return split(options, beaten, criterion.NotDominated())


def _without_cache(o: Option, ctx: int) -> int:
    """Bytes that count, as if the cache took none: no type of it can do with less."""
    return 0 if o.has_gpu else o.counted_at(ctx) - o.kv_bytes_at(ctx)


def _too_big(o: Option, needed: int, ctx: int) -> refusal.NeedsMemory:
    return refusal.NeedsMemory(needed, o.scenario.budget_bytes, ctx, o.kv_type)


def _with_memory(needed_bytes: int) -> str:
    return option("max_memory", f"{needed_bytes // 1024**2 + 1}MiB")


def _nothing_fits(options: Sequence[Option], scenario: Scenario) -> NothingFits:
    def needed(o: Option) -> int:
        return o.counted_at(scenario.request.ctx or min(SHORTEST_CTX, o.most_ctx))

    closest = min(options, key=lambda o: (needed(o), o.model, o.quant))
    ctx = scenario.request.ctx or min(SHORTEST_CTX, closest.most_ctx)
    if problem := closest.placed_at(ctx).problem:
        raise NothingFits(
            f"nothing fits: the smallest, {closest.model} {closest.quant}: {explain.refusal(problem)}",
            hint=f"{option('gpu_layers', 'auto')} puts as many there as fit; {option('ctx')} and {option('slots')} "
            "ask for less",
        )
    budget = scenario.budget
    hint = explain.more_memory(budget)
    if isinstance(budget, RequestedBudget) and needed(closest) > budget.machine_bytes:
        hint = "no size is enough here: take a machine with more memory, or a smaller model"
    elif scenario.request.max_memory_bytes is not None:
        hint = f"try `{_with_memory(needed(closest))}`"
        here = min((o for o in options if not o.download_bytes), key=needed, default=None)
        if closest.download_bytes and here is not None:
            more = f"`{_with_memory(needed(here))}` for {here.model} {here.quant}, which is here"
            hint += f", if its source answers; {more}"
    elif scenario.request.ctx is not None or scenario.slots > 1:
        hint = f"ask for less with {option('ctx')} or {option('slots')}"
    what = f"{closest.model} {closest.quant}, needs {show_memory(needed(closest))}"
    slots = counted(scenario.slots, "slot")
    return NothingFits(
        f"nothing fits: the smallest, {what} with {ctx:,} tokens of context and {slots}; "
        f"the budget is {explain.budget(scenario.budget)}",
        hint=hint,
    )
