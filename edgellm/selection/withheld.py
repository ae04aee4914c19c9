"""Of what the chosen quantization is the highest, where a limit, a source or a rule took higher ones away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from msgspec import structs

from edgellm.estimate.quants import QUANTS
from edgellm.selection.constraints import passed_its_check, small_download
from edgellm.selection.option import Option
from edgellm.selection.rule_result import Rule
from edgellm.types.criterion import BestThatFits, Comfortable, LostTo, QuantCriterion, SurelyKeepsFloor
from edgellm.types.model_reason import ChosenQuant
from edgellm.types.plan import Rejection
from edgellm.types.reason import Reason
from edgellm.types.refusal import OtherQuantPreferred

Withheld = tuple[Option, LostTo]


def taken_by(
    rule: Rule, before: Sequence[Option], left: Sequence[Option], extra_rules: Sequence[Rule]
) -> list[Withheld]:
    """What a rule took away that fits and is fast enough, for all that is known: what other rules take is not."""
    cause: LostTo = "download" if rule is small_download else "rules"
    if len(before) == len(left) or not (rule in (small_download, passed_its_check) or rule in extra_rules):
        return []
    kept = {(id(o.file), o.backend) for o in left}
    return [(o, cause) for o in before if (id(o.file), o.backend) not in kept]


def qualified(
    chosen: Option, withheld: Iterable[Withheld], reasons: Iterable[Reason], rejected: Iterable[Rejection]
) -> tuple[tuple[Reason, ...], tuple[Rejection, ...]]:
    """Reasons and rejections that do not call the highest of what was left the highest of all."""
    causes = {cause for o, cause in withheld if _is_higher(o, chosen)}
    if _has_unopened(chosen):
        causes.add("backend")
    if not causes:
        return tuple(reasons), tuple(rejected)
    cause = causes.pop() if len(causes) == 1 else "rules"
    limit = chosen.scenario.request.max_download_bytes if cause == "download" else None
    backend = chosen.backend if cause == "backend" else ""

    def of(why: QuantCriterion) -> QuantCriterion:
        if isinstance(why, SurelyKeepsFloor | BestThatFits | Comfortable):
            return structs.replace(why, lost_to=cause, limit_bytes=limit, backend=backend)
        return why

    def reason(fact: Reason) -> Reason:
        return structs.replace(fact, why=of(fact.why)) if isinstance(fact, ChosenQuant) else fact

    def row(rejection: Rejection) -> Rejection:
        fact = rejection.reason
        if not isinstance(fact, OtherQuantPreferred):
            return rejection
        return replace(rejection, reason=structs.replace(fact, why=of(fact.why)))

    return tuple(map(reason, reasons)), tuple(map(row, rejected))


def _is_higher(o: Option, chosen: Option) -> bool:
    if o.model != chosen.model or o.quant == chosen.quant or QUANTS[o.quant].kind == "float":
        return False
    return o.kept.mid > chosen.kept.mid


def _has_unopened(chosen: Option) -> bool:
    """Whether the backend that was asked for opens no higher file of the model that another may."""
    if chosen.scenario.request.backend is None:
        return False
    bits = QUANTS[chosen.quant].bits
    higher = (f for f in chosen.card.files if QUANTS[f.quant].kind != "float" and QUANTS[f.quant].bits > bits)
    return any(chosen.facts.refuses(f, chosen.shape.arch) for f in higher)
