"""The rules that choose among what will do: the model, then its quantization and backend."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.estimate.quants import QUANTS
from edgellm.selection.option import Option
from edgellm.selection.rule_result import RuleResult
from edgellm.selection.scenario import Scenario
from edgellm.types import criterion, refusal
from edgellm.types.backend_reason import Faster, OwnKernels
from edgellm.types.basis import Losses, rate_kind
from edgellm.types.model_reason import BestModel, ChosenQuant

SMALL_PARAMS = 10e9  # "up to the 7-9B class": below, 4 bits cost code and logic noticeably
LARGE_ENOUGH = ("Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "IQ4_XS", "IQ4_NL", "Q4_0")  # what a large model is content with
SMALL_ENOUGH = "Q5_K_M"
# A file on this disk that is this close to what would be fetched is as good: shares of its kept ability and its score.
AS_GOOD_KEPT, AS_GOOD_SCORE = 0.99, 0.98


def best_model(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Rule 1: what a model can do after compression decides, size, family and speed included."""
    ranked = rank_models(options)
    if not ranked:
        return RuleResult(())
    best = ranked[0]
    basis, alone = best.ability.basis, len(ranked) == 1
    assert not isinstance(basis, Losses)
    reason = BestModel(
        best.model, best.card.params, best.score, best.ability.mid, basis, best.kept.mid, best.quant, alone
    )
    lost = {o.model: refusal.ScoresLess(o.score, o.quant, best.model, best.score) for o in ranked[1:]}
    rejected = tuple((o, lost[o.model]) for o in options if o.model != best.model)
    kept = tuple(o for o in options if o.model == best.model)
    return RuleResult(kept, rejected, reason)


def quant_for_size(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """Rule 1: "a small model takes Q5_K_M or higher whenever the hardware allows it"; a large one survives 4 bits.

    Small: the highest that keeps the floor; above Q5_K_M the low end of the predicted rate must keep it too, so that
    an upgrade nobody needs is safe. Large: Q4_K_M or the nearest to it that is there, higher only where that costs no
    comfort. What is on this disk and as good is taken instead: free memory changes from call to call, and gigabytes are
    not to be fetched each time that it does.
    """
    packed = [o for o in options if QUANTS[o.quant].kind != "float"] or list(options)
    if not packed:
        return RuleResult(())
    # As a file that does not fit the RAM is no choice, one that spills from a GPU gives way to one that it holds whole.
    packed = [whole for o in packed if (whole := o.whole_on_gpu) is not None] or packed
    ladder = sorted(packed, key=lambda o: (-o.kept.mid, o.tensor_bytes, _preference(o)))
    small = packed[0].card.params < SMALL_PARAMS
    why: criterion.QuantCriterion
    if len(packed[0].card.files) == 1:
        chosen, why = ladder[0], criterion.OnlyQuant()
    elif any(o.is_native for o in packed):
        chosen, why = min((o for o in packed if o.is_native), key=_preference), criterion.NativeQuant()
    else:
        chosen, why = (_small_quant if small else _large_quant)(ladder, scenario)
        if len({o.file.source for o in options}) == 1 and not isinstance(why, criterion.KeepsMoreThan):
            why = criterion.OnlyQuantLeft()
    if (here := _as_good_here(chosen, ladder, small=small)) is not None:
        chosen, why = here, criterion.OnThisDisk(chosen.quant, chosen.kept.mid, here.kept.mid)
    rejected = tuple((o, _lost_to(chosen, o, why)) for o in options if not _same_file(o, chosen))
    return RuleResult((chosen,), rejected, ChosenQuant(chosen.quant, chosen.bits, chosen.tensor_bytes, why))


def rank_models(options: Sequence[Option]) -> list[Option]:
    """The best option of each model, best model first."""
    of_model: dict[str, list[Option]] = {}
    for o in options:
        of_model.setdefault(o.model, []).append(o)
    return sorted((_best(files) for files in of_model.values()), key=_preference)


def _best(options: Sequence[Option]) -> Option:
    """As `_preference` has it. Speed costs most, so it is not asked for of files that cannot score as much."""
    first: list[Option] = []
    for o in sorted(options, key=lambda o: o.most_score, reverse=True):
        if first and o.most_score < first[0].score:
            break
        if not first or _first_preference(o) < _first_preference(first[0]):
            first = [o]
        elif _first_preference(o) == _first_preference(first[0]):
            first.append(o)
    return first[0] if len(first) == 1 else min(first, key=_preference)


def better_backend(chosen: Option, other: Option) -> Faster | OwnKernels:
    """What speaks for the backend of the one against that of the other, on the same kind of file."""
    rate, other_rate = chosen.rate, other.rate
    if rate.tok_s != other_rate.tok_s:
        both_measured = chosen.facts.calibration and other.facts.calibration
        return Faster(rate.tok_s, other_rate.tok_s, "measured" if both_measured else rate_kind(rate.basis))
    return OwnKernels()


def _same_file(option: Option, other: Option) -> bool:
    """The cache may be of another type."""
    return option.file is other.file and option.backend == other.backend


def _lost_to(chosen: Option, other: Option, why: criterion.QuantCriterion) -> refusal.RuleRefusal:
    """Why an option of the chosen model was not taken."""
    if other.quant != chosen.quant:
        return refusal.OtherQuantPreferred(chosen.quant, why)
    if other.backend != chosen.backend:
        return refusal.OtherBackendPreferred(chosen.backend, other.backend, better_backend(chosen, other))
    return refusal.OtherFilePreferred(chosen.file.source.split()[0])


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


def _as_good_here(chosen: Option, ladder: Sequence[Option], *, small: bool) -> Option | None:
    """The best file on this disk that need not give way to one that must be fetched; None where there is none."""
    if chosen.is_native or not chosen.download_bytes:
        return None
    # A small model has no fewer bits than the rule allows it where it may have them.
    enough = next((o.kept.mid for o in ladder if small and o.quant == SMALL_ENOUGH), 0.0)
    least = max(AS_GOOD_KEPT * chosen.kept.mid, min(enough, chosen.kept.mid))
    here = (o for o in ladder if not o.download_bytes and o.quant != chosen.quant)
    return next((o for o in here if o.kept.mid >= least and o.score >= AS_GOOD_SCORE * chosen.score), None)


def _first_preference(option: Option) -> tuple[float, bool, bool]:
    return -option.score, not option.is_local, option.file.sha256 is None


def _preference(option: Option) -> tuple[tuple[float, bool, bool], float, int, int, str, str, str]:
    """Sort key, best first: score, what is here already, what is known by name, speed, size, the specialist's backend.

    The last, as kernels made for a few types are faster than the same model's on a general library: 1.5 to 4.6 times
    on ternary weights (docs/benchmarks/log/ternary.md).
    """
    quants = option.facts.quants
    specialism = 1000 if quants is None else len(quants)
    return (
        _first_preference(option), -option.rate.tok_s, option.tensor_bytes, specialism,
        option.model, option.backend, option.file.source,
    )  # fmt: skip
