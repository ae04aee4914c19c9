"""`edgellm estimate`: what a model would take and give on a machine, before anything is downloaded or loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import (
    device,
    gpu_layers,
    kv,
    models_dir,
    models_file,
    profile,
    say_unasked,
    slots,
    think,
    threads,
)
from edgellm.cli.page import Column, entry, examples, say, say_json, table
from edgellm.cli.words import BACKEND, MODEL, QUANT, TASK, TOKENS
from edgellm.errors import EdgeLLMError, UnsupportedArtifact
from edgellm.units import show_memory, show_params, show_rate, show_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm.app.resolve import ResolvedModel
    from edgellm.selection.context import SelectionContext
    from edgellm.selection.fit import FitReport
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact, ModelCard
    from edgellm.types.plan import Footprint, Rate
    from edgellm.types.request import SelectionRequest

SHOWN_PROBLEMS = 3
QUANT_TABLE = (
    Column("quant"), Column("weights", right=True, spare=1), Column("context", right=True, spare=3),
    Column("slots", right=True, spare=4), Column("memory", right=True), Column("tok/s", right=True),
    Column("kept", right=True, spare=2), Column("verdict"),
)  # fmt: skip
DOES_NOT_FIT = 3  # exit code of errors.NothingFits


@click.command(
    epilog=examples(
        "edgellm estimate qwen3-4b",
        "edgellm estimate qwen3-4b:Q4_K_M --ctx 32k --slots 4",
        "edgellm estimate ./model.gguf --profile raspberry-pi-5-8gb",
    )
)
@click.argument("model", type=MODEL)
@click.option(
    "--quant", type=QUANT, metavar="NAME", help="The quantization of MODEL, such as Q4_K_M; all of them where unset."
)
@click.option(
    "--ctx", type=TOKENS, metavar="TOKENS", help="Context per slot, as 32k; unset = as selection would run it."
)
@slots
@kv
@think
@click.option(
    "--adapter", "adapters", multiple=True, metavar="FILE|rank=N", help="A LoRA kept beside the model (repeat)."
)
@click.option("--task", type=TASK, help="The task whose speed floor and context count.")
@click.option("--max-memory", metavar="SIZE", help="Most memory it may take, as 700MiB or 2GiB.")
@click.option("--backend", type=BACKEND, help="Only this backend.")
@threads
@gpu_layers
@device
@click.option("--offline", is_flag=True, help="Make no requests: the catalog describes an address.")
@profile("For another machine")
@models_dir
@models_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/estimate-json.md).")
def command(
    *,
    model: str,
    quant: str | None,
    adapters: tuple[str, ...],
    profile: str | None,
    models_file: Path | None,
    as_json: bool,
    offline: bool,
    **options: Any,
) -> int:
    """Predict memory, speed and quality of a model without fetching it."""
    from edgellm import explain
    from edgellm.app import own_format
    from edgellm.app.adapters import adapter_bytes, taking_adapters
    from edgellm.app.asked import refuse_options
    from edgellm.app.context import of, request_for
    from edgellm.app.file_plan import judged
    from edgellm.app.resolve import named_artifact, resolve
    from edgellm.selection.busy import scenario_of
    from edgellm.selection.fit import fit_reports
    from edgellm.types.options import SelectionOptions

    selection = SelectionOptions.of(**options)
    context = of(profile, models_file=models_file)
    artifact = named_artifact(model, context, selection.backend)
    if artifact is not None and own_format.is_own(artifact):
        refuse_options(model, quant=quant, adapter=adapters)
        _estimate_own(artifact, model, context, request_for(context, selection), as_json=as_json)
        return 0
    resolved = resolve(model, context, quant=quant, offline=offline, predict=True, artifact=artifact)
    if adapters:
        resolved = replace(resolved, card=taking_adapters(resolved.card))
    if resolved.typed:
        say(f"{resolved.typed} is taken as {resolved.card.id}.", err=True)
    reads_only = resolved.card.kind in ("embedding", "reranker")
    request = request_for(context, selection, usual_task="embed" if reads_only else "chat")
    if resolved.artifact is not None and context.is_here:
        context = judged(context, resolved.artifact, resolved.card, request)
    scenario = scenario_of(context, request)
    adapters_bytes = adapter_bytes(adapters, resolved.card.shape, resolved.artifact)
    fits, refusals = fit_reports(resolved.card, context, scenario, adapter_bytes=adapters_bytes, others=resolved.others)
    chosen = _chosen(resolved.card, context, request)
    say_unasked()
    if as_json:
        from edgellm.selection import fit_json

        say_json(fit_json.to_dict(resolved.card, resolved.basis, scenario, fits, refusals, chosen))
    else:
        _show(resolved, context.machine, explain.budget(scenario.budget), fits, chosen)
        for rejection in refusals:
            say(f"Not predicted: {rejection.quant}: {explain.refusal(rejection.reason)}.")
    return 0 if any(report.fits for report in fits) else DOES_NOT_FIT


def _estimate_own(
    artifact: Artifact, model: str, context: SelectionContext, request: SelectionRequest, *, as_json: bool
) -> None:
    """Of a model in a format that only plugins know: the memory, where its backend tells it.

    Raises:
        UnsupportedArtifact: it does not. NothingFits: it is more than may be used.
    """
    from edgellm import explain
    from edgellm.app import file_plan, own_format
    from edgellm.estimate.footprint import counted_bytes
    from edgellm.selection import fit_json
    from edgellm.selection.busy import scenario_of
    from edgellm.types.verdict import Fits

    plan = file_plan.unpredicted_plan(artifact, file_plan.opened(context, artifact, request), request)
    facts = own_format.opened_by(artifact, plan.backend)
    if plan.footprint is None:
        told = f"{artifact.path} is a model in {artifact.format}, of which nothing is predicted: {facts}"
        named = f" --backend {request.backend}" if request.backend else ""
        raise UnsupportedArtifact(f"{told}, and tells no memory", hint=f"`edgellm run {model}{named}` tries it")
    scenario, counted = scenario_of(context, request), counted_bytes(plan.footprint, context.machine)
    say_unasked()
    if as_json:
        say_json(fit_json.of_plan(plan, facts, scenario, counted))
        return
    run = plan.settings
    say(f"{artifact.name} on {context.machine.name}", bold=True)
    say(f"a model in {artifact.format}, {show_size(artifact.bytes)}; {facts}, and tells its memory")
    say("neither speed nor quality of such a model is predicted")
    say()
    entry("run with", f"{run.n_ctx:,} tokens in {run.kv_type}, slots: {run.n_slots}, threads: {run.n_threads}", width=8)
    say()
    _show_memory(plan.footprint)
    say()
    say(f"{show_memory(counted)} count against {explain.budget(scenario.budget)}.")
    say(explain.sentence(fit_json.length_of(plan)))
    say(explain.verdict(Fits(scenario.budget_bytes - counted)), bold=True, fg="green")


def _chosen(card: ModelCard, context: SelectionContext, request: SelectionRequest) -> str:
    """The quantization of the card that selection would run; "" where it would run none."""
    from edgellm.selection.decide import decide
    from edgellm.selection.scenario import TASK_NEEDS

    candidate = replace(card, kind=TASK_NEEDS[request.task].kind)
    try:
        # Whether the file is stored, and which sources answer, does not matter here.
        choice = decide(replace(context.narrowed([candidate]), stored=frozenset(), absent={}), request).choice
    except EdgeLLMError:
        return ""  # the reports say why
    return choice.quant if choice is not None else ""


def _show(
    resolved: ResolvedModel, machine: Machine, budget_reason: str, fits: Sequence[FitReport], chosen: str
) -> None:
    if len(fits) == 1:
        _show_one(resolved, machine, budget_reason, fits[0])
    else:
        _show_all(resolved, machine, budget_reason, fits, chosen)


def _head(resolved: ResolvedModel, machine: Machine, quant: str) -> None:
    from edgellm import explain
    from edgellm.selection.reasons import FREE_LICENSES

    card = resolved.card
    restricts = "" if card.license in (*FREE_LICENSES, "unknown") else ", which restricts use"
    say(f"{card.id} {quant}".strip() + f" on {machine.name}", bold=True)
    active = f", {show_params(card.params_active)} of them active" if card.params_active < card.params else ""
    facts = f"{show_params(card.params)} parameters{active}, licence {card.license}{restricts}"
    say(f"{facts}; {explain.trained_length(card)}")
    say(f"facts from {resolved.basis}")


def _show_one(resolved: ResolvedModel, machine: Machine, budget_reason: str, report: FitReport) -> None:
    from edgellm import explain
    from edgellm.selection.fit_json import size

    candidate, footprint, kept = report.candidate, report.candidate.footprint, report.kept
    _head(resolved, machine, candidate.quant)
    weights = size(resolved.card, report)
    rule = "as it is loaded" if resolved.card.files[0].format == "safetensors" else "by llama.cpp's rules"
    read = "read from the file" if resolved.card.trust else "as its row says"
    how = {"exact": read, "rule": rule, "estimate": "an estimate, within about 5 %"}[weights.basis]
    about = "" if weights.file_is_exact else "about "
    backend = f"backend {candidate.backend}" if candidate.backend else "no backend"
    source, cells = candidate.source, f"{candidate.ctx:,} tokens in {candidate.kv_type}"
    is_address = source.startswith(("hf:", "pypi:", "file:"))
    quality = f"{candidate.quality:.0f} of 100 ({candidate.quality_low:.0f} to {candidate.quality_high:.0f})"
    retention = f"{candidate.quant} keeps {kept.mid:.1%} of the ability ({kept.low:.1%} to {kept.high:.1%})"
    say()
    rows = [
        ("weights", f"{show_size(candidate.tensor_bytes)} ({how}), file {about}{show_size(weights.file_bytes)}"),
        *((("", weights.own_types),) if weights.own_types else ()),
        ("from", source.split()[0] if is_address else source),
        ("run with", f"{cells}, slots: {candidate.slots}, threads: {candidate.threads}, {backend}"),
        ("decode", _span(candidate.decode)),
        ("", explain.basis(candidate.decode.basis)),
        ("prompts", _span(candidate.prefill)),
        ("", explain.basis(candidate.prefill.basis)),
        ("quality", f"{quality}; {explain.basis(report.ability)}"),
        ("", f"{retention}: {explain.basis(kept.basis)}"),
    ]
    if report.device_reason is not None:
        rows.append(("gpu", f"{explain.gpu(report.device_reason)}."))
    rows += [("", explain.sentence(others)) for others in report.other_placements]
    for label, value in rows:
        entry(label, value, width=8)
    say()
    _show_memory(footprint)
    say()
    say(f"{show_memory(report.counted_bytes)} count against {budget_reason}.")
    if report.counted_bytes < footprint.resident_bytes:
        dropped = show_memory(footprint.reclaimable_bytes)
        say(f"Less counts than is resident: the system may drop {dropped} of the file once its weights are repacked.")
    say(explain.sentence(report.ctx_reason))
    for reason in (report.busy, report.set_aside):
        if reason is not None:
            say(explain.sentence(reason))
    say(explain.verdict(report.verdict), bold=True, fg="green" if report.fits else "red")
    _show_remedies(report)


def _show_memory(footprint: Footprint) -> None:
    """What each part takes."""
    terms = [(term.name, term.allocated_bytes, term.resident_bytes) for term in footprint.terms()]
    rows = [*terms, ("together", footprint.allocated_bytes, footprint.resident_bytes)]
    cells = [(name, show_memory(allocated), show_memory(resident)) for name, allocated, resident in rows]
    if footprint.device_bytes:
        cells.append(("on the GPU", show_memory(footprint.device_bytes), ""))
    table((Column("memory"), Column("allocated", right=True), Column("resident", right=True)), cells)


def _span(rate: Rate) -> str:
    return f"{show_rate(rate.tok_s)} tok/s ({show_rate(rate.low)} to {show_rate(rate.high)})"


def _show_remedies(report: FitReport) -> None:
    if report.remedies:
        say("It would fit with" if len(report.remedies) == 1 else "It would fit with one of")
        for remedy in report.remedies:
            say(f"{' '.join(remedy.flags)} ({show_memory(remedy.counted_bytes)})", lead="  ")
    elif not report.fits and report.candidate.backend:
        say("No flag makes it fit; `edgellm auto-select` chooses what does.")


def _show_all(
    resolved: ResolvedModel, machine: Machine, budget_reason: str, fits: Sequence[FitReport], chosen: str
) -> None:
    """A line for each quantization, the largest first."""
    from edgellm import explain

    _head(resolved, machine, "")
    say()
    reports = sorted(fits, key=lambda report: -report.candidate.tensor_bytes)
    styles = [
        {} if report.fits and not report.is_fast_enough else {"fg": "green" if report.fits else "red"}
        for report in reports
    ]
    table(QUANT_TABLE, [_quant_row(report, chosen) for report in reports], styles=styles)
    if fits:
        say(f"\nMemory budget {budget_reason}.")
        if len({report.candidate.slots for report in fits}) > 1:
            say("Slots: conversations at a time, each with a context of its own; `--slots 1` asks for one.")
        if busy := next((report.busy for report in fits if report.busy), None):
            say(explain.all_busy(busy.load, busy.processors))
        if aside := next((report.set_aside for report in fits if report.set_aside), None):
            say(explain.sentence(aside))
        say(f"Quality before quantization: {explain.basis(fits[0].ability)}.")
        for problem in list(dict.fromkeys(report.problems[0] for report in fits if report.problems))[:SHOWN_PROBLEMS]:
            say(f"Cannot be run so: {explain.problem(problem)}.")
        say(f"`edgellm estimate {resolved.card.id}:QUANT` shows every term of one.")


def _quant_row(report: FitReport, chosen: str) -> tuple[str, ...]:
    candidate = report.candidate
    word = f"{_word(report)}, chosen" if candidate.quant == chosen else _word(report)
    context = (f"{candidate.ctx:,}", f"{candidate.slots}")
    sizes = (show_size(candidate.tensor_bytes), *context, show_memory(report.counted_bytes))
    return (candidate.quant, *sizes, show_rate(report.rate_tps), f"{report.kept.mid:.1%}", word)


def _word(report: FitReport) -> str:
    from edgellm.types.verdict import CannotRun, DoesNotFit, Fits, FitsSlowly

    match report.verdict:
        case DoesNotFit(missing_bytes=missing_bytes):
            return f"{show_memory(missing_bytes)} too much"
        case CannotRun():
            return "cannot run so" if report.candidate.backend else "no backend"
        case FitsSlowly():
            return "fits, slow"
        case Fits():
            return "fits"
