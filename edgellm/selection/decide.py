"""The decision: which model, in which quantization, on which backend, with how much context in which type of cache, and
why.

Pure: the same machine, request, catalog, backends, local files and measurements give the same `Decision`, byte for byte
as JSON. It asks nothing of the network; which sources answer is an input (`request.reachable`, `request.offline`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgellm.errors import BackendUnavailable, NothingFits
from edgellm.history.corrections import Corrections
from edgellm.selection.context_length import choose_context, fit_context
from edgellm.selection.expand import NO_CORRECTIONS, NO_DIVERGENCES, NO_VETOES, OTHER_FORMAT, expand
from edgellm.selection.local_quants import SCHEME, could_be_made, proposal
from edgellm.selection.offload import require
from edgellm.selection.option import Option, is_reachable, scheme
from edgellm.selection.reasons import about, evidence
from edgellm.selection.rule_result import Rule, rejections
from edgellm.selection.rules import CHOICES, CONSTRAINTS, coherent_bits, quant_for_size, rank_models
from edgellm.selection.scenario import BackendFacts, Setting, setting
from edgellm.types.machine import Machine
from edgellm.types.model import ModelCard
from edgellm.types.plan import Candidate, Decision, Rejection
from edgellm.types.request import SelectionRequest

__all__ = ["BackendFacts", "decide", "fit_context"]

RUNNERS_UP = 5


@dataclass(frozen=True, slots=True)
class _Outcome:
    chosen: Option
    choice: Candidate
    reasons: tuple[str, ...]
    runners_up: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...]


def decide(
    machine: Machine,
    request: SelectionRequest,
    cards: Iterable[ModelCard],
    backends: Sequence[BackendFacts],
    local: Collection[str] = (),
    *,
    corrections: Corrections = NO_CORRECTIONS,
    vetoes: Mapping[tuple[str, str, str], str] = NO_VETOES,
    divergences: Mapping[tuple[str, str, str], float] = NO_DIVERGENCES,
    extra_rules: Sequence[Rule] = (),
) -> Decision:
    """The best model that `machine` runs well for `request`, with the whole reason.

    `local` holds sha256 hashes and sources of files that need no fetching. `choice` is the best that can be had;
    `would_choose` the best if every source answered, None where the two are the same. `choice` is None where
    something fits but none of it can be had. `corrections` are what earlier runs here made of
    predictions; `vetoes` say by (backend, model, quantization) what a quality check here refused, and why;
    `divergences` likewise how far, in nats, its answers are from the unquantized model's.

    Raises:
        NothingFits: no candidate satisfies the request; the message names the closest.
        BackendUnavailable: no installed backend runs here.
    """
    given = setting(machine, request)
    usable, backend_reasons = _usable(backends, request)
    rows = sorted(cards, key=lambda card: card.id)
    options, impossible = expand(rows, usable, given, frozenset(local), corrections, vetoes, divergences)
    if not options:
        raise _nothing_runs(impossible, given.needs.kind)
    opening = (
        f"Memory budget {given.budget_reason}.",
        *backend_reasons,
        f"Considered {_count(len({o.model for o in options}), f'{given.needs.kind} model')} in "
        f"{_count(len(options), 'file')}; {_count(given.threads, 'thread')}.",
    )
    measured = {"corrected": len(corrections.rows), "vetoes": len(vetoes), "checked": len(divergences)}
    start = Decision(
        choice=None,
        reasons=opening,
        rejected=tuple(impossible),
        budget_bytes=given.budget_bytes,
        inputs=_inputs(given, rows, usable, len(local)) | measured,
    )
    best = _choose_or_make(options, given, extra_rules)
    reachable = [o for o in options if is_reachable(o, request.reachable, offline=request.offline)]
    if len(reachable) == len(options):
        return _with(start, best, *_proposal(best.chosen, reachable, given, extra_rules))
    kinds = {scheme(part) for option in options for part in option.file.source.split()}
    return _restricted(start, best, reachable, given, extra_rules=extra_rules, kinds=kinds)


def _restricted(
    start: Decision,
    best: _Outcome,
    reachable: Sequence[Option],
    given: Setting,
    *,
    extra_rules: Sequence[Rule],
    kinds: Collection[str],
) -> Decision:
    """The decision where some sources do not answer. `kinds` are those of its files; no others were asked."""
    request, wish = given.request, best.choice
    answer = [kind for kind in request.reachable or () if kind in kinds]
    what = "offline" if request.offline else f"reachable: {', '.join(answer) or 'none'}"
    if not reachable:
        note = f"Sources ({what}): no file can be had; {wish.model} {wish.quant} would be chosen."
        return replace(start, reasons=(*start.reasons, note), would_choose=wish)
    outcome = _choose_or_make(reachable, given, extra_rules)
    if outcome.choice == wish:
        return _with(start, best, f"Sources ({what}): the best choice can be had.")
    have = f"{len(reachable):,} file{'s' if len(reachable) != 1 else ''} can be had"
    note = f"Sources ({what}): {have}; {wish.model} {wish.quant} would be chosen if all answered."
    make = _proposal(outcome.chosen, reachable, given, extra_rules)
    return replace(_with(start, outcome, note, *make), would_choose=wish)


def _choose_or_make(options: Sequence[Option], given: Setting, extra_rules: Sequence[Rule]) -> _Outcome:
    """As `_choose`; where nothing will do, the error says what could be made here of what can be had."""
    try:
        return _choose(options, given, extra_rules)
    except NothingFits as error:
        made = could_be_made(options)
        if not made:
            raise
        try:
            best = _choose(made, given, extra_rules).chosen
        except NothingFits:
            raise error from None
        raise NothingFits(error.message, hint=proposal(best, None)) from error


def _proposal(
    chosen: Option, reachable: Sequence[Option], given: Setting, extra_rules: Sequence[Rule]
) -> tuple[str, ...]:
    """A line on a quantization that could be made here and would be chosen, where there is one."""
    made = could_be_made(reachable)
    if not made:
        return ()
    # The other models have lost to the chosen one already.
    best = _choose([*(o for o in reachable if o.model == chosen.model), *made], given, extra_rules).chosen
    return (proposal(best, chosen),) if best.file.source.startswith(SCHEME) else ()


def _with(start: Decision, outcome: _Outcome, *notes: str) -> Decision:
    return replace(
        start,
        choice=outcome.choice,
        reasons=(*start.reasons, *notes, *outcome.reasons),
        runners_up=outcome.runners_up,
        rejected=(*start.rejected, *outcome.rejected),
    )


def _nothing_runs(impossible: Sequence[Rejection], kind: str) -> NothingFits:
    """The error where no model of the catalog can run, with the commonest reason of files that a backend could open."""
    rows = [r for r in impossible if r.rule != f"is_{kind}_model"]
    rows = [r for r in rows if r.rule != OTHER_FORMAT] or rows
    count = Counter(r.reason for r in rows)
    first = max(rows, key=lambda r: count[r.reason], default=None)
    why = "" if first is None else f": {first.model} {first.quant} {first.reason}"
    return NothingFits(f"no {kind} model runs on an installed backend{why}", hint="see `edgellm plugins`")


def _usable(backends: Sequence[BackendFacts], request: SelectionRequest) -> tuple[list[BackendFacts], tuple[str, ...]]:
    """Backends to plan for, and what was said of the others."""
    wanted = sorted((b for b in backends if request.backend in (None, b.name)), key=lambda b: b.name)
    usable = [b for b in wanted if not b.problems]
    reasons = tuple(f"Backend {b.name} cannot run here: {'; '.join(b.problems)}." for b in wanted if b.problems)
    if usable and request.gpu_layers not in (None, 0):
        # The first that could with another build says how; one that never can is no help.
        first = next((b for b in usable if b.offload is not None), usable[0])
        able = [b for b in usable if b.offload is not None and b.offload.devices]
        require((able or [first])[0].name, (able or [first])[0].offload, request.gpu_layers)
        usable = able
    if not usable:
        asked = f"backend {request.backend!r}" if request.backend else "any backend"
        known = ", ".join(b.name for b in backends) or "none"
        raise BackendUnavailable(
            f"{asked} cannot be used: {' '.join(reasons) or 'it is not installed'}",
            hint=f"installed: {known}; see `edgellm plugins`",
        )
    return usable, reasons


def _choose(options: Sequence[Option], given: Setting, extra_rules: Sequence[Rule]) -> _Outcome:
    """Apply the rules in order."""
    reasons: list[str] = []
    rejected: list[Rejection] = []
    left: tuple[Option, ...] = tuple(options)
    low: Sequence[Option] = ()
    for rule in (*CONSTRAINTS, *extra_rules):
        before, left = left, _apply(rule, left, given, reasons, rejected)
        if rule is coherent_bits:
            stays = set(map(id, left))
            low = [o for o in before if id(o) not in stays]
    possible = left
    for rule in CHOICES:
        left = _apply(rule, left, given, reasons, rejected)
    chosen = left[0]
    ctx, why = choose_context(chosen)
    reasons += [why, *evidence(chosen, low), *about(chosen, ctx, possible)]
    return _Outcome(
        chosen, chosen.candidate(ctx), tuple(reasons), _runners_up(possible, chosen, given), tuple(rejected)
    )


def _apply(
    rule: Rule, options: tuple[Option, ...], given: Setting, reasons: list[str], rejected: list[Rejection]
) -> tuple[Option, ...]:
    verdict = rule(options, given)
    if verdict.reason:
        reasons.append(verdict.reason)
    rejected += rejections(verdict, rule.__name__)
    if not verdict.kept:
        last = "; ".join(f"{r.model} {r.reason}" for r in rejected[-3:])
        raise NothingFits(
            f"rule {rule.__name__} left nothing: {last}", hint="ask for less with --ctx, --min-tps or --slots"
        )
    return verdict.kept


def _runners_up(possible: Sequence[Option], chosen: Option, given: Setting) -> tuple[Candidate, ...]:
    """The next best models, each in the quantization it would be run in."""
    names = [o.model for o in rank_models(possible) if o.model != chosen.model][:RUNNERS_UP]
    found = []
    for name in names:
        best = quant_for_size([o for o in possible if o.model == name], given).kept[0]
        found.append(best.candidate(choose_context(best)[0]))
    return tuple(found)


def _inputs(
    given: Setting, rows: Sequence[ModelCard], backends: Sequence[BackendFacts], n_local: int
) -> dict[str, object]:
    """What the decision was taken on, for the record."""
    machine, request = given.machine, given.request
    return {
        "machine": machine.id,
        "source_trust": machine.source_trust,
        "cpu": machine.cpu.model,
        "threads": given.threads,
        "bandwidth_gb_s": machine.memory.bandwidth_gb_s,
        "bandwidth_basis": machine.memory.bandwidth_basis,
        "task": request.task,
        "ctx": request.ctx,
        "min_tps": request.min_tps,
        "floor_tps": given.floor_tps,
        "max_memory_bytes": request.max_memory_bytes,
        "backend": request.backend,
        "slots": request.slots,
        "gpu_layers": request.gpu_layers,
        "kv_type": request.kv_type,
        "offline": request.offline,
        "reachable": None if request.reachable is None else list(request.reachable),
        "backends": [b.name for b in backends],
        "rates": {b.name: "measured" if b.calibration else "prior" for b in backends},
        "models": len(rows),
        "local_files": n_local,
    }


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
