"""Decisions for many machines at once, each on its own or with one model for all of them. Pure, as `decide` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgellm.errors import BackendUnavailable, NothingFits, UsageError
from edgellm.selection.context import SelectionContext
from edgellm.selection.decide import decide
from edgellm.selection.option import RISK
from edgellm.selection.scenario import TASK_NEEDS, Scenario
from edgellm.types.machine import Machine
from edgellm.types.model import ModelCard
from edgellm.types.model_reason import FewerBitsTaken
from edgellm.types.plan import Candidate, Decision
from edgellm.types.request import SelectionRequest

RUNNERS_UP = 5


@dataclass(frozen=True, slots=True)
class Site:
    """One box: its circumstances, and what is asked of it."""

    name: str
    count: int
    context: SelectionContext  # boxes of one kind share the object, so that they are decided once
    request: SelectionRequest

    @property
    def machine(self) -> Machine:
        return self.context.machine

    @property
    def kind(self) -> str:
        return TASK_NEEDS[self.request.task].kind


@dataclass(frozen=True, slots=True)
class Assigned:
    """What a box runs; `decision` is None where nothing fits, and `problem` says why."""

    site: Site
    decision: Decision | None
    problem: str = ""

    @property
    def choice(self) -> Candidate | None:
        return self.decision.choice if self.decision is not None else None


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A model that was not taken for all boxes; fields as of `Shared`."""

    model: str
    quality_worst: float
    quality_mean: float
    slow_boxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shared:
    """One model for every box."""

    model: str
    quant: str  # the one file for all of them; "" = each box has its own
    boxes: tuple[Assigned, ...]
    quality_worst: float  # expected quality less a part of its downside, on the box where it is least
    quality_mean: float  # over all machines
    slow_boxes: tuple[str, ...]  # boxes where it stays below the floor; empty unless no model keeps all floors
    low_bit_boxes: tuple[str, ...]  # boxes where it is in 2 or 3 bits; empty unless no model fits in more
    limiting_box: str  # the box without which the others would do better; "" = none
    without_it: str  # the model that they would take; may be the same
    runners_up: tuple[RunnerUp, ...]


def plan(sites: Sequence[Site]) -> tuple[Assigned, ...]:
    """The best model for each box by itself."""
    return tuple(_assigned(site, site.context) for site in sites)


def plan_shared(sites: Sequence[Site], *, one_file: bool = False) -> Shared:
    """The model that is best where it is worst, and of equal ones the best on average; with `one_file` in one
    quantization everywhere.

    A model in 2 or 3 bits is taken where none fits in more; where no model keeps the speed floor of every box, the one
    that keeps most of them.

    Raises:
        NothingFits: no model fits every box; names the box that allows fewest.
        UsageError: boxes ask for models of different kinds.
    """
    site_of_kind = {site.kind: site.name for site in sites}
    if len(site_of_kind) > 1:
        wishes = ", ".join(f"{name} for {kind} models" for kind, name in sorted(site_of_kind.items()))
        raise UsageError(f"one model cannot serve all boxes: {wishes}", hint="plan them in files of their own")
    table, runs, n_tried = _table(sites, one_file=one_file)
    complete = {key: row for key, row in table.items() if all(a.choice is not None for a in row)}
    if not complete:
        raise _none_fits(sites, runs, n_tried)
    ranked = sorted(complete, key=lambda key: (tuple(-part for part in _rank(complete[key])), key))
    best, row = ranked[0], complete[ranked[0]]
    limit, without = _limit(sites, table, best)
    others: dict[str, RunnerUp] = {}
    for key in ranked:
        if key[0] != best[0] and len(others) < RUNNERS_UP:
            other = complete[key]
            others.setdefault(key[0], RunnerUp(key[0], _worst(other), _mean(other), _slow(other)))
    return Shared(
        *best, row, _worst(row), _mean(row), _slow(row), _low_bits(row), limit, without, tuple(others.values())
    )


_Key = tuple[str, str]  # model, quantization ("" = whichever suits each box)
_Row = tuple[Assigned, ...]  # in the order of the sites


def _table(sites: Sequence[Site], *, one_file: bool) -> tuple[dict[_Key, _Row], list[int], int]:
    """Each model (in each quantization) on each box; of how many each box runs, and of how many in all.

    The boxes with the least memory are asked first. What two boxes cannot run is not asked of the others, which changes
    no answer.
    """
    cards = [{card.id: card for card in site.context.cards if card.kind == site.kind} for site in sites]
    keys = [
        (name, quant)
        for name in sorted(set.intersection(*(set(rows) for rows in cards)))
        for quant in (sorted({f.quant for rows in cards for f in rows[name].files}) if one_file else ("",))
    ]
    order = sorted(range(len(sites)), key=lambda i: (Scenario.of(sites[i].machine, sites[i].request).budget_bytes, i))
    table: dict[_Key, _Row] = {}
    runs = [0] * len(sites)
    for name, quant in keys:
        row: dict[int, Assigned] = {}
        # Boxes of one kind with one request are the same decision.
        done: dict[tuple[int, SelectionRequest], Assigned] = {}
        for i in order:
            site = sites[i]
            same = (id(site.context), site.request)
            if same not in done:
                done[same] = _assigned(site, site.context.narrowed([_in(cards[i][name], quant)]))
            row[i] = replace(done[same], site=site)
            runs[i] += row[i].choice is not None
            if sum(a.choice is None for a in row.values()) > 1:
                break
        else:
            table[name, quant] = tuple(row[i] for i in range(len(sites)))
    return table, runs, len(keys)


def _in(card: ModelCard, quant: str) -> ModelCard:
    return card if not quant else replace(card, files=tuple(file for file in card.files if file.quant == quant))


def _assigned(site: Site, context: SelectionContext) -> Assigned:
    try:
        decision = decide(context, site.request)
    except (NothingFits, BackendUnavailable) as error:
        return Assigned(site, None, error.message)
    if decision.choice is None:
        return Assigned(site, decision, "something fits, but none of it can be had")
    return Assigned(site, decision)


def cautious(choice: Candidate) -> float:
    """Expected quality less a part of its downside, as selection ranks by."""
    return choice.quality - RISK * (choice.quality - choice.quality_low)


def is_slow(assigned: Assigned) -> bool:
    choice, request = assigned.choice, assigned.site.request
    if choice is None:
        return False
    floor = request.min_tps if request.min_tps is not None else TASK_NEEDS[request.task].floor_tps
    rate = choice.prefill if request.task == "embed" else choice.decode
    return rate.tok_s < floor


def _slow(row: Sequence[Assigned]) -> tuple[str, ...]:
    return tuple(a.site.name for a in row if is_slow(a))


def _low_bits(row: Sequence[Assigned]) -> tuple[str, ...]:
    """Boxes for which the rule of coherent bits had to give way."""
    decided = ((a.site.name, a.decision) for a in row if a.decision is not None)
    return tuple(name for name, decision in decided if any(isinstance(r, FewerBitsTaken) for r in decision.reasons))


def _worst(row: Sequence[Assigned]) -> float:
    return round(min(cautious(a.choice) for a in row if a.choice is not None), 2)


def _mean(row: Sequence[Assigned]) -> float:
    weighed = [(cautious(a.choice), a.site.count) for a in row if a.choice is not None]
    return round(sum(q * n for q, n in weighed) / sum(n for _, n in weighed), 2)


def _limit(sites: Sequence[Site], table: Mapping[_Key, _Row], best: _Key) -> tuple[str, str]:
    """The box without which the others would do best, better than now, and the model they would take."""
    most, limit = _rank(table[best]), ("", "")
    for i, site in enumerate(sites):
        without = {key: (*row[:i], *row[i + 1 :]) for key, row in table.items()}
        possible = {key: row for key, row in without.items() if row and all(a.choice is not None for a in row)}
        key = max(possible, key=lambda key: (_rank(possible[key]), key), default=None)
        if key is not None and _rank(possible[key]) > most:
            most, limit = _rank(possible[key]), (site.name, " ".join(filter(None, key)))
    return limit


def _rank(row: Sequence[Assigned]) -> tuple[float, ...]:
    """More is better: coherent everywhere, fast enough everywhere, good where it is worst, good on average."""
    return (-len(_low_bits(row)), -len(_slow(row)), _worst(row), _mean(row))


def _none_fits(sites: Sequence[Site], runs: Sequence[int], n_tried: int) -> NothingFits:
    i = min(range(len(sites)), key=lambda i: runs[i])
    more = "" if sites[i].request.max_memory_bytes is None else ", let it use more than its max_memory"
    return NothingFits(
        f"no model runs on every box; {sites[i].name} allows fewest, {runs[i]} of {n_tried}",
        hint=f"give it less to hold (ctx, slots, min_tps){more}, or plan without --one-model",
    )
