"""What a named model takes on a machine, term by term, whether it fits, and which flag would make it fit.

Pure, as `decide` is: the same context and scenario give the same reports.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from edgellm.errors import BackendUnavailable, NothingFits
from edgellm.estimate import quality
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.busy import as_if_alone, slowed
from edgellm.selection.choices import rank_models
from edgellm.selection.constraints import LOW_SHARE
from edgellm.selection.context import SelectionContext
from edgellm.selection.context_length import STEPS
from edgellm.selection.decide import choose, usable_backends
from edgellm.selection.expand import expand, export_rule
from edgellm.selection.option import Option
from edgellm.selection.reasons import gpu_reason, other_placements, rates_set_aside
from edgellm.selection.scenario import Scenario
from edgellm.types.backend_reason import BackendCannotRun, GpuReason, RatesSetAside
from edgellm.types.basis import EstimateBasis
from edgellm.types.criterion import Stated
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Candidate, Rejection
from edgellm.types.priors import Priors
from edgellm.types.reason import ContextLength, OtherPlacements, ProcessorsBusy
from edgellm.types.refusal import NoBackendOpens, NoBackendRuns, Refusal, RefusedByRule, TrainedForLess
from edgellm.types.request import KV_TYPES
from edgellm.types.verdict import CannotRun, DoesNotFit, Fits, FitsSlowly, Verdict

# Of the ability, that half the context or half the slots are worth: a choice of ours, to rank changes by.
GIVEN_UP_PER_HALF = 0.05
_NOBODY = ""  # name of the backend where none opens the file


@dataclass(frozen=True, slots=True)
class Remedy:
    """Flags that make it fit, and what it counts then."""

    flags: tuple[str, ...]
    counted_bytes: int


@dataclass(frozen=True, slots=True)
class FitReport:
    """One model in one quantization on one machine."""

    candidate: Candidate  # backend "" = none opens it
    exact_size: bool  # its weights are known to the byte
    ctx_reason: ContextLength
    kept: quality.Estimate  # share of the ability left in this quantization and cache
    ability: EstimateBasis  # where the quality comes from
    counted_bytes: int  # against the budget
    budget_bytes: int
    floor_tps: float
    rate_tps: float  # what the floor is compared with
    problems: tuple[Refusal, ...] = ()  # beside memory: no backend, more context than it was trained for
    remedies: tuple[Remedy, ...] = ()
    device_reason: GpuReason | None = None  # what a GPU takes, and why
    other_placements: tuple[OtherPlacements, ...] = ()  # the next best, at most one fact
    busy: ProcessorsBusy | None = None  # what other programs may make of the speed
    set_aside: RatesSetAside | None = None  # why the speed is predicted although it was measured

    @property
    def fits(self) -> bool:
        return self.counted_bytes <= self.budget_bytes and not self.problems

    @property
    def is_fast_enough(self) -> bool:
        return self.rate_tps >= self.floor_tps

    @property
    def verdict(self) -> Verdict:
        free_bytes = self.budget_bytes - self.counted_bytes
        if free_bytes < 0:
            return DoesNotFit(self.counted_bytes, -free_bytes, self.problems)
        if self.problems:
            return CannotRun(self.problems)
        return Fits(free_bytes) if self.is_fast_enough else FitsSlowly(free_bytes, self.rate_tps, self.floor_tps)


def fit_reports(
    card: ModelCard,
    context: SelectionContext,
    scenario: Scenario,
    *,
    adapter_bytes: int = 0,
    others: Sequence[ModelFile] = (),
) -> tuple[list[FitReport], list[Rejection]]:
    """One report for each file of `card`, in their order, and why the rest have none.

    An unknown ability is imputed from the context's cards. `others` are files of the model that could be taken instead.
    A file that no backend opens has a report too, as far as memory and speed go.
    """
    room = replace(scenario, budget_bytes=scenario.budget_bytes - adapter_bytes)
    card_of_kind = replace(card, kind=scenario.needs.kind)
    scored_cards = [replace(other, files=()) for other in context.cards if other.scores and other.id != card.id]
    asked = [b for b in context.backends if scenario.request.backend in (None, b.name)]
    usable = tuple(b for b in asked if not b.problems)
    with_others = replace(card_of_kind, files=(*card_of_kind.files, *others))
    everything = replace(context, cards=(with_others, *scored_cards), backends=usable, stored=frozenset(), absent={})
    options, all_rejected = expand(everything, room)
    rejected = [r for r in all_rejected if r.model == card.id]
    not_opened = {r.quant: r.reason for r in rejected if isinstance(r.reason, NoBackendOpens) and r.reason.refusals}
    cannot_run = tuple(BackendCannotRun(b.name, b.problems) for b in asked if b.problems)
    reports: list[FitReport] = []
    for file in card_of_kind.files:
        of_file = [o for o in options if o.file is file]
        problem: Refusal | None
        if of_file:
            problem = _refused_by_rules(of_file, context, room)
        else:
            # That others open other formats is no news where one that opens this format has a problem.
            is_format_opened = any(file.format in b.formats for b in usable) or not cannot_run
            problem = not_opened.get(file.quant) if is_format_opened else None
            problem = problem or NoBackendRuns(cannot_run)
            of_file = _without_backend(replace(card_of_kind, files=(file,)), scored_cards, context, room)
        if of_file:
            siblings = [o for o in options if o.file is not file]
            run = _as_selected(of_file, context, room) if problem is None else None
            report = _fit_report(run or _as_wished(of_file), siblings, adapter_bytes, problem)
            reports.append(report if context.load is None else _beside(report, context.load, room))
    missing = {file.quant for file in card_of_kind.files} - {report.candidate.quant for report in reports}
    return reports, [r for r in rejected if r.quant in missing]


def _beside(report: FitReport, load: float, room: Scenario) -> FitReport:
    """The report beside other programs, as `decide` has it."""
    if (slow := slowed(report.candidate, load, room)) is None:
        return report
    candidate, told = slow
    return replace(report, candidate=candidate, ctx_reason=as_if_alone(report.ctx_reason, told.instead_of), busy=told)


def _without_backend(
    card: ModelCard, scored: Sequence[ModelCard], context: SelectionContext, room: Scenario
) -> list[Option]:
    """The card's one file as a backend without a name would open it."""
    (file,) = card.files
    nobody = BackendFacts(
        _NOBODY,
        frozenset({file.format}),
        frozenset({file.quant}),
        kv_types=frozenset(KV_TYPES),
        priors=Priors(export=export_rule(context.backends, file.format)),
    )
    return expand(SelectionContext(context.machine, (nobody,), (card, *scored)), room)[0]


def _refused_by_rules(of_file: Sequence[Option], context: SelectionContext, room: Scenario) -> RefusedByRule | None:
    """What a plugin's rule says against the file on every backend; None = nothing."""
    for rule in context.rules:
        result = rule(of_file, room)
        if not result.kept:
            return RefusedByRule(rule.__name__, result.rejected[-1][1] if result.rejected else result.reason)
    return None


@dataclass(frozen=True, slots=True)
class _Run:
    option: Option
    ctx: int
    why: ContextLength


def _as_selected(of_file: Sequence[Option], context: SelectionContext, room: Scenario) -> _Run | None:
    """Backend, cache and context as selection takes them for this one file; None where it would not take it."""
    try:
        able = {backend.name for backend in usable_backends(context.backends, room.request)[0]}
        # A veto is a problem of its own, and no reason to show the file in another context.
        outcome = choose([replace(o, veto="") for o in of_file if o.backend in able], room, context.rules)
    except (NothingFits, BackendUnavailable):
        return None
    option = next(o for o in of_file if o.backend == outcome.choice.backend)
    run = replace(option.with_slots(outcome.choice.slots), kv_type=outcome.choice.kv_type)
    return _Run(run, outcome.choice.ctx, outcome.context_length)


def _as_wished(of_file: Sequence[Option]) -> _Run:
    """The file as it would be run if there were room."""
    best = rank_models(of_file)[0]
    ctx, task = best.needed_ctx, best.scenario.request.task
    is_asked = best.scenario.request.ctx is not None
    return _Run(best, ctx, ContextLength(ctx, "asked") if is_asked else ContextLength(ctx, "task", task=task))


def _fit_report(run: _Run, siblings: Sequence[Option], adapter_bytes: int, problem: Refusal | None) -> FitReport:
    chosen, ctx = run.option, run.ctx
    scenario, request = chosen.scenario, chosen.scenario.request
    placed = chosen.placed_at(ctx)
    problems: list[Refusal | None] = [problem, placed.problem, Stated(chosen.veto) if chosen.veto else None]
    if chosen.is_trained_for_less(ctx):
        problems.append(TrainedForLess(chosen.card.ctx_train, ctx))
    if request.kv_type is not None and chosen.backend:
        problems.append(chosen.facts.refuses_cache(chosen.kv_type, chosen.shape))
    candidate = chosen.beside().candidate(ctx)
    footprint = structs.replace(candidate.footprint, adapter_bytes=adapter_bytes)
    others = [o for o in siblings if o.backend == chosen.backend]
    return FitReport(
        candidate=replace(candidate, footprint=footprint),
        exact_size=chosen.weights.exact,
        ctx_reason=run.why,
        kept=chosen.kept,
        ability=chosen.ability.basis,
        counted_bytes=chosen.counted_at(ctx) + adapter_bytes,
        budget_bytes=scenario.budget_bytes + adapter_bytes,
        floor_tps=scenario.floor_tps,
        rate_tps=chosen.useful_tps,
        problems=tuple(problem for problem in problems if problem is not None),
        remedies=() if chosen.fits_at(ctx) else _remedies(chosen, ctx, others, adapter_bytes),
        device_reason=gpu_reason(chosen, ctx),
        other_placements=other_placements(candidate, chosen),
        set_aside=next(iter(rates_set_aside(chosen, candidate.decode)), None),
    )


def _remedies(option: Option, ctx: int, siblings: Sequence[Option], adapter_bytes: int) -> tuple[Remedy, ...]:
    """Single flags that make it fit, those that cost least first; where none does, several together."""
    single = [*_with_cache(option, ctx), *_with_context(option, ctx), *_with_slots(option, ctx)]
    single += [*_with_quant(siblings, option, ctx), *_with_layers(option, ctx), *_with_budget(option, ctx)]
    remedies = single or _together(option, ctx, siblings)
    return tuple(replace(r, counted_bytes=r.counted_bytes + adapter_bytes) for r in remedies)


def _with_cache(option: Option, ctx: int) -> list[Remedy]:
    smaller = KV_TYPES[KV_TYPES.index(option.kv_type) + 1 :]
    tried = [replace(option, kv_type=k) for k in smaller if not option.facts.refuses_cache(k, option.shape)]
    return [Remedy((f"--kv {o.kv_type}",), o.counted_at(ctx)) for o in tried if o.fits_at(ctx)][:1]


def _with_context(option: Option, ctx: int) -> list[Remedy]:
    shorter = next((n for n in STEPS if n < ctx and option.fits_at(n)), None)
    return [] if shorter is None else [Remedy((f"--ctx {shorter}",), option.counted_at(shorter))]


def _with_slots(option: Option, ctx: int) -> list[Remedy]:
    for slots in range(option.scenario.slots - 1, 0, -1):
        fewer = option.with_slots(slots)
        if fewer.fits_at(ctx):
            return [Remedy((f"--slots {slots}",), fewer.counted_at(ctx))]
    return []


def _with_quant(siblings: Sequence[Option], option: Option, ctx: int) -> list[Remedy]:
    """The best other quantization that fits as it is asked for; one in 2 or 3 bits is no cure by itself."""
    coherent = [o for o in siblings if o.is_native or o.low_bit_share <= LOW_SHARE]
    tried = [replace(o, kv_type=option.kv_type) for o in coherent]
    fitting = [o for o in tried if o.fits_at(ctx)]
    best = max(fitting, key=lambda o: (o.kept.mid, -o.tensor_bytes), default=None)
    return [] if best is None else [Remedy((f"--quant {best.quant}",), best.counted_at(ctx))]


def _with_layers(option: Option, ctx: int) -> list[Remedy]:
    """As many layers on GPUs as fit there, instead of the number that was asked for."""
    request = replace(option.scenario.request, gpu_layers=None)
    fewer = replace(option, scenario=replace(option.scenario, request=request))
    if option.scenario.request.gpu_layers is None or not fewer.fits_at(ctx):
        return []
    return [Remedy(("--gpu-layers auto",), fewer.counted_at(ctx))]


def _with_budget(option: Option, ctx: int) -> list[Remedy]:
    """More than was asked for, where the machine has it."""
    needed = option.counted_at(ctx)
    if option.placed_at(ctx).problem:
        return []
    if option.scenario.request.max_memory_bytes is None or needed > option.scenario.machine.memory_budget_bytes:
        return []
    return [Remedy((f"--max-memory {needed // 1024**2 + 1}MiB",), needed)]


def _together(option: Option, ctx: int, siblings: Sequence[Option]) -> list[Remedy]:
    """The change of several flags that gives least up, where any makes it fit."""
    kv_types = [k for k in KV_TYPES if not option.facts.refuses_cache(k, option.shape)] or [option.kv_type]
    slots, lengths = option.scenario.slots, (ctx, *(step for step in STEPS if step < ctx))
    best: tuple[float, Remedy] | None = None
    for file, kv_type, n_slots in itertools.product((option, *siblings), kv_types, sorted({slots, 1})):
        tried = replace(file.with_slots(n_slots), kv_type=kv_type)
        length = next(filter(tried.fits_at, lengths), None)
        if length is not None:
            kept = tried.kept.mid - GIVEN_UP_PER_HALF * (math.log2(ctx / length) + math.log2(slots / n_slots))
            if best is None or kept > best[0]:
                best = kept, Remedy(_flags(option, tried, ctx, length), tried.counted_at(length))
    return [] if best is None else [best[1]]


def _flags(option: Option, tried: Option, ctx: int, length: int) -> tuple[str, ...]:
    changed = (
        (f"--quant {tried.quant}", tried.quant != option.quant),
        (f"--kv {tried.kv_type}", tried.kv_type != option.kv_type),
        (f"--ctx {length}", length != ctx),
        ("--slots 1", tried.scenario.slots != option.scenario.slots),
    )
    return tuple(flag for flag, differs in changed if differs)
