"""The golden rules, in the order they are applied: each takes what is left and returns what stays, and why.

    passed_its_check     what failed a quality check on this machine is dropped
    trained_context      a model is not asked for more context than it was trained for
    fits_memory          what does not fit the budget is dropped
    coherent_bits        rule 2: never a 2- or 3-bit file unless nothing else fits
    usable_context       a model that leaves no room for a conversation is dropped
    reaches_floor        too slow for the task is dropped
    worth_its_bytes      rule 2: never a quantization that another one beats in size, speed and quality
    best_model           rule 1: the ability left after compression and the worth of its speed decide the model
    quant_for_size       rule 1: small models at Q5_K_M or better, large ones at Q4_K_M or IQ4_XS

Three of them (fits_memory, usable_context, reaches_floor) try smaller types of cache before they drop an option, and no
rule lowers the type for anything else. A plugin's rules (hook `register_rules`) have the same signature and run before
`best_model`.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgellm import explain
from edgellm.errors import NothingFits
from edgellm.estimate.quants import LOW_BITS, QUANTS
from edgellm.selection.context_length import longest
from edgellm.selection.option import Option
from edgellm.selection.rule_result import Rule, RuleResult, lowering, split
from edgellm.selection.scenario import SHORTEST_CTX, Scenario
from edgellm.types import criterion, refusal
from edgellm.types.backend_reason import Faster, OwnKernels
from edgellm.types.basis import Losses, rate_kind
from edgellm.types.reason import BestModel, ChosenQuant, FewerBitsTaken, ShorterContext, Slow
from edgellm.units import show_memory, show_rate

SMALL_PARAMS = 10e9  # "up to the 7-9B class": below, 4 bits cost code and logic noticeably
LARGE_ENOUGH = ("Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "IQ4_XS", "IQ4_NL", "Q4_0")  # what a large model is content with
SMALL_ENOUGH = "Q5_K_M"
LOW_SHARE = 1 / 3  # a file is a 2- or 3-bit file if more of its weights than this are; 4-bit mixes have none


def passed_its_check(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """What `edgellm bench` found unfit, against a higher quantization, is not chosen again."""
    return split(options, lambda o: criterion.Stated(o.veto) if o.veto else None, criterion.QualityChecked())


def trained_context(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Beyond its trained length a model's answers fall apart, so the length asked for is a constraint."""
    asked = scenario.request.ctx
    if asked is None:
        return RuleResult(tuple(options))
    return split(
        options,
        lambda o: refusal.TrainedForLess(o.card.ctx_train, asked) if o.card.ctx_train < asked else None,
        criterion.TrainedContext(asked),
    )


def fits_memory(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Weights, cache, buffers and process must fit the budget, with the context asked for or at least the shortest."""

    def over(o: Option) -> refusal.RuleRefusal | None:
        ctx = scenario.request.ctx or min(SHORTEST_CTX, o.card.ctx_train)
        # Weights alone settle most cases without computing a footprint, where no GPU takes some of them.
        needed = o.tensor_bytes if too_heavy(o) else o.counted_at(ctx)
        if needed <= scenario.budget_bytes:
            return o.placed_at(ctx).problem
        return _too_big(o, needed, ctx)

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
        memory = o.counted_at(o.needed_ctx)
        if memory > scenario.budget_bytes:
            return _too_big(o, memory, o.needed_ctx)
        if problem := o.placed_at(o.needed_ctx).problem:
            return problem
        if scenario.request.ctx is None and o.card.ctx_train < needed:
            return refusal.TrainedForLess(o.card.ctx_train, needed, scenario.request.task)
        return None

    def hopeless(o: Option) -> bool:
        return o.card.ctx_train < needed or _without_cache(o, o.needed_ctx) > scenario.budget_bytes

    result = lowering(options, short, criterion.RoomForContext(scenario.request.ctx or needed), hopeless=hopeless)
    if not options or result.kept or scenario.request.ctx is not None:
        return result
    # As no type of cache holds it, none is given up for it.
    reach = [longest(o.needed_ctx, o.fits_at) for o in options]
    # Half the longest context with a better model is worth more than all of it.
    enough = max(reach) / 2
    kept = tuple(o for o, ctx in zip(options, reach, strict=True) if ctx >= enough)
    shorter = (o for o, ctx in zip(options, reach, strict=True) if ctx < enough)
    dropped = tuple((o, why) for o in shorter if (why := short(o)) is not None)
    return RuleResult(kept, dropped, ShorterContext(needed, scenario.request.task))


def reaches_floor(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Slower than the floor is not usable.

    A floor that the user set is a promise and is kept or refused. The task's own gives way: who has a slow machine
    still wants the best answer it can give, and is told.
    """
    floor = scenario.floor_tps

    def slow(o: Option) -> refusal.TooSlow:
        return refusal.TooSlow(o.rate.tok_s, floor, rate_kind(o.rate.basis), o.card.thinking, o.kv_type)

    def hopeless(o: Option) -> bool:
        if scenario.request.task == "embed" or o.facts.calibration is None:
            return True
        return o.decode_at(0).tok_s * o.useful_tps < floor * o.decode.tok_s

    asked = criterion.ReachesFloor(floor, scenario.request.task)
    result = lowering(options, lambda o: slow(o) if o.useful_tps < floor else None, asked, hopeless=hopeless)
    if not options or result.kept:
        return result
    best = max(o.useful_tps for o in options)
    if scenario.request.min_tps is not None:
        fastest = max(options, key=lambda o: (o.useful_tps, o.model))
        raise NothingFits(
            f"nothing reaches {show_rate(floor)} tok/s on {scenario.machine.name}; the fastest that fits is "
            f"{fastest.model} {fastest.quant} at a predicted {show_rate(best)}",
            hint=f"try `--min-tps {best * 0.95:.2g}`",
        )
    # Within a tenth of the fastest the better model is worth more than the difference.
    kept = tuple(o for o in options if o.useful_tps >= 0.9 * best)
    dropped = tuple((o, slow(o)) for o in options if o.useful_tps < 0.9 * best)
    return RuleResult(kept, dropped, Slow(floor, best))


def worth_its_bytes(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Rule 2: "smaller, not faster". Drops what another file of the model beats in bytes, speed and quality."""

    by_model: dict[tuple[str, str], list[tuple[tuple[float, float, float], Option]]] = {}
    for o in options:
        # Each the better, the higher.
        by_model.setdefault((o.model, o.backend), []).append(((-o.tensor_bytes, o.kept.mid, o.rate.tok_s), o))

    def beaten(o: Option) -> refusal.Dominated | None:
        own = (-o.tensor_bytes, o.kept.mid, o.rate.tok_s)
        for other, a in by_model[o.model, o.backend]:
            if other[0] >= own[0] and other[1] >= own[1] and other[2] >= own[2] and other != own:
                return refusal.Dominated(a.quant)
        return None

    return split(options, beaten, criterion.NotDominated())


def best_model(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Rule 1: what a model can do after compression decides, size, family and speed included."""
    ranked = rank_models(options)
    if not ranked:
        return RuleResult(())
    best = ranked[0]
    assert not isinstance(best.ability.basis, Losses)
    reason = BestModel(
        best.model, best.card.params, best.score, best.ability.mid, best.ability.basis, best.kept.mid, best.quant
    )
    lost = {o.model: refusal.ScoresLess(o.score, o.quant, best.model, best.score) for o in ranked[1:]}
    rejected = tuple((o, lost[o.model]) for o in options if o.model != best.model)
    kept = tuple(o for o in options if o.model == best.model)
    return RuleResult(kept, rejected, reason)


def rank_models(options: Sequence[Option]) -> list[Option]:
    """The best option of each model, best model first."""
    best: dict[str, Option] = {}
    for o in sorted(options, key=_preference):
        best.setdefault(o.model, o)
    return sorted(best.values(), key=_preference)


def quant_for_size(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Rule 1: "a small model takes Q5_K_M or higher whenever the hardware allows it"; a large one survives 4 bits.

    Small: the highest that keeps the floor; above Q5_K_M the low end of the predicted rate must keep it too, so that
    an upgrade nobody needs is safe. Large: Q4_K_M or the nearest to it that is there, higher only where that costs no
    comfort.
    """
    packed = [o for o in options if QUANTS[o.quant].kind != "float"] or list(options)
    if not packed:
        return RuleResult(())
    ladder = sorted(packed, key=lambda o: (-o.kept.mid, o.tensor_bytes, _preference(o)))
    small = packed[0].card.params < SMALL_PARAMS
    why: criterion.QuantCriterion
    if any(o.is_native for o in packed):
        chosen, why = min((o for o in packed if o.is_native), key=_preference), criterion.NativeQuant()
    elif small:
        chosen, why = _small_quant(ladder, scenario)
    else:
        chosen, why = _large_quant(ladder, scenario)
    rejected = tuple((o, _lost_to(chosen, o, why)) for o in options if o is not chosen)
    return RuleResult((chosen,), rejected, ChosenQuant(chosen.quant, chosen.bits, chosen.tensor_bytes, why))


def _lost_to(chosen: Option, o: Option, why: criterion.QuantCriterion) -> refusal.RuleRefusal:
    """Why an option of the chosen model was not taken."""
    if o.quant != chosen.quant:
        return refusal.OtherQuantPreferred(chosen.quant, why)
    if o.backend != chosen.backend:
        return refusal.OtherBackendPreferred(chosen.backend, o.backend, better_backend(chosen, o))
    return refusal.OtherFilePreferred(chosen.file.source.split()[0])


def better_backend(chosen: Option, o: Option) -> Faster | OwnKernels:
    """What speaks for the backend of the one against that of the other, on the same kind of file."""
    mine, other = chosen.rate, o.rate
    if mine.tok_s != other.tok_s:
        both_measured = chosen.facts.calibration and o.facts.calibration
        return Faster(mine.tok_s, other.tok_s, "measured" if both_measured else rate_kind(mine.basis))
    return OwnKernels()


def _small_quant(ladder: Sequence[Option], scenario: Scenario) -> tuple[Option, criterion.QuantCriterion]:
    enough = next((o for o in ladder if o.quant == SMALL_ENOUGH), None)
    threshold = enough.kept.mid if enough is not None else 0.0
    for o in ladder:
        if o.kept.mid >= threshold and o.rate.low >= scenario.floor_tps:
            return o, criterion.SurelyKeepsFloor(scenario.floor_tps)
    if enough is not None:
        # A smaller file may be left with more: its cache need not be squeezed.
        best = next(o for o in ladder if o.tensor_bytes <= enough.tensor_bytes)
        if best.kept.mid > enough.kept.mid and best.kv_type != enough.kv_type:
            return best, criterion.KeepsMoreThan(best.kv_type, SMALL_ENOUGH, enough.kv_type)
        return enough, criterion.SmallModelQuant(SMALL_ENOUGH)
    return ladder[0], criterion.BestThatFits()


def _large_quant(ladder: Sequence[Option], scenario: Scenario) -> tuple[Option, criterion.QuantCriterion]:
    comfortable = [o for o in ladder if o.useful_tps >= scenario.needs.comfort_tps and o.quant not in LARGE_ENOUGH]
    at_four = [o for o in ladder if o.quant in LARGE_ENOUGH]
    if comfortable and (not at_four or comfortable[0].kept.mid > at_four[0].kept.mid):
        return comfortable[0], criterion.Comfortable(scenario.needs.comfort_tps)
    if at_four:
        return at_four[0], criterion.FourBitsSuffice()
    return ladder[0], criterion.BestThatFits()


def _preference(o: Option) -> tuple[float, bool, bool, float, int, int, str, str, str]:
    """Sort key, best first: score, what is here already, what is known by name, speed, size, the specialist's backend.

    The last, as kernels made for a few types are faster than the same model's on a general library: 1.5 to 4.6 times
    on ternary weights (docs/benchmarks/log/ternary.md).
    """
    kinds = 1000 if o.facts.quants is None else len(o.facts.quants)
    known = o.file.sha256 is None
    return (-o.score, not o.is_local, known, -o.rate.tok_s, o.tensor_bytes, kinds, o.model, o.backend, o.file.source)


def _without_cache(o: Option, ctx: int) -> int:
    """Bytes that count, as if the cache took none: no type of it can do with less."""
    return 0 if o.has_gpu else o.counted_at(ctx) - o.kv_bytes_at(ctx)


def _too_big(o: Option, needed: int, ctx: int) -> refusal.NeedsMemory:
    return refusal.NeedsMemory(needed, o.scenario.budget_bytes, ctx, o.kv_type)


def _nothing_fits(options: Sequence[Option], scenario: Scenario) -> NothingFits:
    def needed(o: Option) -> int:
        return o.counted_at(scenario.request.ctx or min(SHORTEST_CTX, o.card.ctx_train))

    closest = min(options, key=lambda o: (needed(o), o.model, o.quant))
    ctx = scenario.request.ctx or min(SHORTEST_CTX, closest.card.ctx_train)
    if problem := closest.placed_at(ctx).problem:
        raise NothingFits(
            f"nothing fits: the smallest, {closest.model} {closest.quant}: {explain.refusal(problem)}",
            hint="--gpu-layers auto puts as many there as fit; --ctx, --slots ask for less",
        )
    hint = "close other programs or raise the limit"
    if scenario.request.max_memory_bytes is not None:
        hint = f"try `--max-memory {needed(closest) // 1024**2 + 1}MiB`"
    elif scenario.request.ctx is not None or scenario.request.slots > 1:
        hint = "ask for less with --ctx or --slots"
    what = f"{closest.model} {closest.quant}, needs {show_memory(needed(closest))}"
    return NothingFits(
        f"nothing fits: the smallest, {what} with {ctx:,} tokens of context and {scenario.request.slots} slots; "
        f"the budget is {explain.budget(scenario.budget)}",
        hint=hint,
    )


CONSTRAINTS: tuple[Rule, ...] = (
    passed_its_check,
    trained_context,
    fits_memory,
    coherent_bits,
    usable_context,
    reaches_floor,
    worth_its_bytes,
)
CHOICES: tuple[Rule, ...] = (best_model, quant_for_size)
