"""The decision: which model, in which quantization, on which backend, with how much context in which type of cache, and
why.

Pure: the same machine, request, catalog, backends, local files and measurements give the same `Decision`, byte for byte
as JSON. It asks nothing of the network; which sources answer is an input (`context.reachable`, `request.offline`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from msgspec import Struct, structs

from edgellm import explain
from edgellm.errors import BackendUnavailable, NothingFits, option
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.builds import with_builds
from edgellm.selection.busy import scenario_of, under_load
from edgellm.selection.choices import quant_for_size, rank_models
from edgellm.selection.constraints import coherent_bits
from edgellm.selection.context import SelectionContext
from edgellm.selection.context_length import choose_context
from edgellm.selection.expand import OTHER_FORMAT, expand
from edgellm.selection.local_quants import SCHEME, local_options, proposal
from edgellm.selection.offload import require
from edgellm.selection.option import Option
from edgellm.selection.reasons import about, evidence
from edgellm.selection.rule_result import PluginRule, Rule, rejections
from edgellm.selection.rules import CHOICES, CONSTRAINTS
from edgellm.selection.scenario import Scenario
from edgellm.selection.slot_count import choose_slots
from edgellm.selection.source import is_reachable, scheme
from edgellm.selection.withheld import Withheld, qualified, taken_by
from edgellm.types.backend_reason import BackendCannotRun
from edgellm.types.model_reason import BestModel, CouldBeMade
from edgellm.types.plan import Candidate, Decision, Rejection
from edgellm.types.reason import Considered, ContextLength, Reason, SlotCount, SourcesReached
from edgellm.types.request import SelectionRequest

RUNNERS_UP = 5


class Outcome(Struct, frozen=True):
    """What the rules chose of some options."""

    chosen: Option
    choice: Candidate
    context_length: ContextLength
    reasons: tuple[Reason, ...]
    runners_up: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...]


def decide(context: SelectionContext, request: SelectionRequest) -> Decision:
    """The best model of the context that its machine runs well for `request`, with the whole reason.

    `choice` is the best that can be had; `would_choose` the best if every source answered, None where the two are the
    same. `choice` is None where something fits but none of it can be had.

    Raises:
        NothingFits: no candidate satisfies the request; the message names the closest.
        BackendUnavailable: no installed backend runs here.
    """
    scenario = scenario_of(context, request)
    usable, backend_reasons = usable_backends(context.backends, request)
    cards = tuple(sorted(context.cards, key=lambda card: card.id))
    options, impossible = expand(replace(context, cards=cards, backends=tuple(usable)), scenario)
    if not options:
        formats = {file.format for card in cards for file in card.files}
        if "gguf" in formats and not any(formats & backend.formats for backend in usable):
            raise _nothing_opens(usable, backend_reasons, request)
        raise _nothing_runs(impossible, scenario.needs.kind, backend_reasons)
    n_models = len({o.model for o in options})
    opening = (
        *context.unasked,
        scenario.budget,
        *backend_reasons,
        Considered(n_models, scenario.needs.kind, len(options), scenario.threads),
    )
    start = Decision(
        choice=None,
        reasons=opening,
        rejected=tuple(impossible),
        budget_bytes=scenario.budget_bytes,
        inputs=_inputs(context, scenario, usable),
    )
    decision = _decided(start, options, scenario, context)
    if len(cards) == 1:
        decision = replace(decision, reasons=tuple(map(_as_named, decision.reasons)))
    return under_load(with_builds(decision, context, request, decide), context, scenario)


def _as_named(reason: Reason) -> Reason:
    """Of the only model that takes part nobody needs to hear that it is left."""
    return structs.replace(reason, alone=False, named=True) if isinstance(reason, BestModel) else reason


def _decided(start: Decision, options: Sequence[Option], scenario: Scenario, context: SelectionContext) -> Decision:
    """The decision among files that can run, as if nothing else did."""
    request = scenario.request
    reachable = [o for o in options if is_reachable(o, context.reachable, offline=request.offline)]
    try:
        best = _choose_or_make(options, scenario, context.rules)
    except NothingFits:
        if reachable:  # what they need is of more use than what others do
            _choose_or_make(reachable, scenario, context.rules)
        raise
    if len(reachable) == len(options):
        return _with(start, best, *_proposal(best.chosen, reachable, scenario, context.rules))
    return _restricted(start, best, options, reachable, scenario, context)


def _restricted(  # noqa: PLR0917
    start: Decision,
    best: Outcome,
    options: Sequence[Option],
    reachable: Sequence[Option],
    scenario: Scenario,
    context: SelectionContext,
) -> Decision:
    """The decision where some sources do not answer."""
    request, wish = scenario.request, best.choice
    kinds = {scheme(part) for option in options for part in option.file.source.split()}  # no others were asked
    answer = tuple(kind for kind in context.reachable or () if kind in kinds)
    note = SourcesReached(request.offline, answer, len(reachable), wish.model, wish.quant)
    if not reachable:
        return replace(start, reasons=(*start.reasons, note), would_choose=wish)
    can_be_had = set(map(id, reachable))
    silent: list[Withheld] = [(o, "sources") for o in options if id(o) not in can_be_had]
    outcome = _choose_or_make(reachable, scenario, context.rules, silent)
    if outcome.choice == wish:
        return _with(start, best, structs.replace(note, best_can_be_had=True))
    make = _proposal(outcome.chosen, reachable, scenario, context.rules)
    return replace(_with(start, outcome, note, *make), would_choose=wish)


def _choose_or_make(
    options: Sequence[Option], scenario: Scenario, extra_rules: Sequence[Rule], withheld: Sequence[Withheld] = ()
) -> Outcome:
    """As `choose`; where nothing will do, the error says what could be made here of what can be had."""
    try:
        return choose(options, scenario, extra_rules, withheld)
    except NothingFits as error:
        made = _makeable(options, scenario)
        if not made:
            raise
        try:
            best = choose(made, scenario, extra_rules).chosen
        except NothingFits:
            raise error from None
        raise NothingFits(error.message, hint=explain.could_be_made(proposal(best, None))) from error


def _makeable(options: Sequence[Option], scenario: Scenario) -> list[Option]:
    """What could be made here, of what is no larger to fetch than the request allows."""
    limit = scenario.request.max_download_bytes
    return local_options([o for o in options if limit is None or o.download_bytes <= limit])


def _proposal(
    chosen: Option, reachable: Sequence[Option], scenario: Scenario, extra_rules: Sequence[Rule]
) -> tuple[CouldBeMade, ...]:
    """A quantization that could be made here and would be chosen, where there is one."""
    made = _makeable(reachable, scenario)
    if not made:
        return ()
    # The other models have lost to the chosen one already.
    best = choose([*(o for o in reachable if o.model == chosen.model), *made], scenario, extra_rules).chosen
    return (proposal(best, chosen),) if best.file.source.startswith(SCHEME) else ()


def _with(start: Decision, outcome: Outcome, *notes: Reason) -> Decision:
    return replace(
        start,
        choice=outcome.choice,
        reasons=(*start.reasons, *notes, *outcome.reasons),
        runners_up=outcome.runners_up,
        rejected=(*start.rejected, *outcome.rejected),
    )


def _nothing_opens(
    usable: Sequence[BackendFacts], broken: Sequence[BackendCannotRun], request: SelectionRequest
) -> NothingFits:
    """The error where no backend opens model files: the core alone has only one that repeats what it is told."""
    if request.backend is not None:
        formats = " and ".join(sorted(usable[0].formats)) or "no files"
        hint = f"leave {option('backend')} out, or name a file that it opens"
        return NothingFits(f"backend {request.backend} opens {formats}, not gguf", hint=hint)
    said = " ".join((".", *map(explain.sentence, broken))).removesuffix(".")
    names = ", ".join(backend.name for backend in usable)
    return NothingFits(
        f"no backend that runs here opens model files (there is {names}){said}",
        hint="`make setup`, or pip install edgellm-gguf; `edgellm doctor` says what is installed and what is wrong",
    )


def _nothing_runs(impossible: Sequence[Rejection], kind: str, broken: Sequence[BackendCannotRun]) -> NothingFits:
    """The error where no model of the catalog can run, with the commonest reason of files that a backend could open.

    And the backends that cannot run here: one of them may be what the model needs.
    """
    rows = [r for r in impossible if r.rule != f"is_{kind}_model"]
    rows = [r for r in rows if r.rule != OTHER_FORMAT] or rows
    count = Counter(r.reason for r in rows)
    first = max(rows, key=lambda r: count[r.reason], default=None)
    why = "" if first is None else f": {f'{first.model} {first.quant}'.strip()}: {explain.refusal(first.reason)}"
    said = " ".join((".", *map(explain.sentence, broken))).removesuffix(".")
    hint = "`edgellm doctor` says what mends it" if broken else "see `edgellm plugins`"
    return NothingFits(f"no {kind} model runs on an installed backend{why}{said}", hint=hint)


def usable_backends(
    backends: Sequence[BackendFacts], request: SelectionRequest
) -> tuple[list[BackendFacts], tuple[BackendCannotRun, ...]]:
    """Backends to plan for, and those that cannot run here."""
    wanted = sorted((b for b in backends if request.backend in (None, b.name)), key=lambda b: b.name)
    usable = [b for b in wanted if not b.problems]
    reasons = tuple(BackendCannotRun(b.name, b.problems) for b in wanted if b.problems)
    if usable and request.gpu_layers not in (None, 0):
        # The first that could with another build says how; one that never can is no help.
        first = next((b for b in usable if b.offload is not None), usable[0])
        able = [b for b in usable if b.offload is not None and b.offload.devices]
        require((able or [first])[0].name, (able or [first])[0].offload, request.gpu_layers)
        usable = able
    if not usable:
        asked = f"backend {request.backend!r}" if request.backend else "any backend"
        installed = ", ".join(b.name for b in backends) or "none"
        raise BackendUnavailable(
            f"{asked} cannot be used: {' '.join(map(explain.sentence, reasons)) or 'it is not installed'}",
            hint=f"installed: {installed}; see `edgellm plugins`",
        )
    return usable, reasons


def choose(
    options: Sequence[Option], scenario: Scenario, extra_rules: Sequence[Rule], withheld: Sequence[Withheld] = ()
) -> Outcome:
    """Apply the rules in order, those of plugins after the constraints and before the choices. `withheld`: what cannot
    be had, and why.

    Raises:
        NothingFits: a rule left nothing.
    """
    reasons: list[Reason] = []
    rejected: list[Rejection] = []
    left: tuple[Option, ...] = tuple(options)
    low: Sequence[Option] = ()
    gone = list(withheld)
    for rule in (*CONSTRAINTS, *extra_rules):
        before, left = left, _apply(rule, left, scenario, reasons, rejected)
        gone += taken_by(rule, before, left, extra_rules)
        if rule is coherent_bits:
            stays = set(map(id, left))
            low = [o for o in before if id(o) not in stays]
    for rule in extra_rules:  # what they drop is not recommended either
        low = rule(low, scenario).kept if low else low
    possible = left
    for rule in CHOICES:
        left = _apply(rule, left, scenario, reasons, rejected)
    chosen = left[0]
    because, lost = qualified(chosen, gone, reasons, rejected)
    length = choose_context(chosen)
    slots = choose_slots(chosen, length.ctx)
    choice = _candidate(chosen, length, slots)
    beside: list[Reason] = [length, *([slots] if slots is not None else [])]
    beside += [*evidence(chosen, low), *about(chosen, choice, possible)]
    runners_up = _runners_up(possible, chosen, scenario)
    return Outcome(chosen, choice, length, (*because, *beside), runners_up, lost)


def _candidate(option: Option, length: ContextLength, slots: SlotCount | None) -> Candidate:
    return (option if slots is None else option.with_slots(slots.n_slots)).beside().candidate(length.ctx)


def _apply(
    rule: Rule, options: tuple[Option, ...], scenario: Scenario, reasons: list[Reason], rejected: list[Rejection]
) -> tuple[Option, ...]:
    result = rule(options, scenario)
    if result.reason is not None:
        reasons.append(result.reason)
    of_rule = rejections(result, rule.__name__)
    rejected += of_rule
    if not result.kept:
        last = "; ".join(f"{r.model} {explain.refusal(r.reason)}" for r in (of_rule or rejected)[-3:])
        less = f"ask for less with {option('ctx')}, {option('min_tps')} or {option('slots')}"
        if isinstance(rule, PluginRule):
            raise NothingFits(f"{rule.told} left nothing: {last}", hint=rule.hint)
        raise NothingFits(f"rule {rule.__name__} left nothing: {last}", hint=less)
    return result.kept


def _runners_up(possible: Sequence[Option], chosen: Option, scenario: Scenario) -> tuple[Candidate, ...]:
    """The next best models, each in the quantization it would be run in."""
    names = [o.model for o in rank_models(possible) if o.model != chosen.model][:RUNNERS_UP]
    candidates = []
    for name in names:
        best = quant_for_size([o for o in possible if o.model == name], scenario).kept[0]
        length = choose_context(best)
        candidates.append(_candidate(best, length, choose_slots(best, length.ctx)))
    return tuple(candidates)


def _inputs(context: SelectionContext, scenario: Scenario, backends: Sequence[BackendFacts]) -> dict[str, object]:
    """What the decision was taken on, for the record. `backends` are those that can be used."""
    machine, request = scenario.machine, scenario.request
    return {
        "machine": machine.id,
        "source_trust": machine.source_trust,
        "cpu": machine.cpu.model,
        "threads": scenario.threads,
        **explain.fields(machine.memory, "bandwidth_gb_s", "bandwidth_basis"),
        **explain.fields(request, "task", "thinking", "ctx", "min_tps"),
        "floor_tps": scenario.floor_tps,
        **explain.fields(
            request, "max_memory_bytes", "max_download_bytes", "backend", "slots", "gpu_layers", "kv_type", "offline"
        ),
        "reachable": None if context.reachable is None else list(context.reachable),
        "backends": [b.name for b in backends],
        "rates": {b.name: "measured" if b.calibration else "prior" for b in backends},
        "models": len(context.cards),
        "local_files": len(context.stored),
        "corrected": context.corrections.count,
        "vetoes": len(context.vetoes),
        "checked": len(context.divergences),
    }
