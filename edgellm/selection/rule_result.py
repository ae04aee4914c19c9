"""What a rule says of the options that are left: which stay, and what each of the others failed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgellm.selection.option import Option
from edgellm.selection.scenario import Setting
from edgellm.types.plan import Rejection


@dataclass(frozen=True, slots=True)
class Verdict:
    kept: tuple[Option, ...]  # an option may be replaced by the same with a smaller cache (`Option.lower`)
    rejected: tuple[tuple[Option, str], ...] = ()  # with the numbers it failed on
    reason: str = ""  # what the rule did, for people; "" = nothing


Rule = Callable[[Sequence[Option], Setting], Verdict]


def split(options: Sequence[Option], fails: Callable[[Option], str], what: str) -> Verdict:
    kept: list[Option] = []
    rejected: list[tuple[Option, str]] = []
    for o in options:
        reason = fails(o)
        if reason:
            rejected.append((o, reason))
        else:
            kept.append(o)
    reason = f"{what}: {len(kept):,} of {len(options):,} files stay." if rejected else ""
    return Verdict(tuple(kept), tuple(rejected), reason)


def lowering(
    options: Sequence[Option],
    fails: Callable[[Option], str],
    what: str,
    *,
    hopeless: Callable[[Option], bool] = lambda _option: False,
) -> Verdict:
    """As `split`, but what fails is tried with smaller types of cache, one after the other, before it is dropped.

    `hopeless` says where no cache at all would help.
    """
    kept: list[Option] = []
    rejected: list[tuple[Option, str]] = []
    lowered = 0
    for option in options:
        o, reason = option, fails(option)
        while reason and not hopeless(o) and o.lower is not None:
            rejected.append((o, reason))
            o = o.lower
            reason = fails(o)
        if reason:
            rejected.append((o, reason))
        else:
            kept.append(o)
            lowered += o is not option
    if not rejected:
        return Verdict(tuple(kept))
    smaller = f", {lowered:,} of them with a smaller type of cache" if lowered else ""
    return Verdict(tuple(kept), tuple(rejected), f"{what}: {len(kept):,} of {len(options):,} files stay{smaller}.")


def rejections(verdict: Verdict, rule: str) -> list[Rejection]:
    """The verdict's rejections: one per model where the rule dropped all of it, else one per file and type of cache."""
    dropped: dict[str, list[tuple[Option, str]]] = {}
    for o, why in verdict.rejected:
        dropped.setdefault(o.card.id, []).append((o, why))
    kept = [o for o in verdict.kept if o.card.id in dropped]
    left = {o.model for o in kept}
    files = {(o.model, o.quant, o.file.source, o.backend) for o in kept}
    rows: list[Rejection] = []
    for model, items in dropped.items():
        if model not in left:
            # Of its smallest file, what was said of the smallest cache.
            closest, why = min(reversed(items), key=lambda item: (item[0].tensor_bytes, item[0].quant))
            alone = all(o.quant == closest.quant for o, _ in items)
            named = why if alone or rule == "best_model" else f"even {closest.quant}: {why}"
            rows.append(Rejection(model, "", rule, named))
            continue
        last = {(o.quant, o.file.source, o.backend): o for o, _ in items}
        for o, why in items:
            stays = (model, o.quant, o.file.source, o.backend) in files
            if stays or o is last[o.quant, o.file.source, o.backend]:
                rows.append(Rejection(model, o.quant, rule, why, o.kv_type if stays else ""))
    return rows
