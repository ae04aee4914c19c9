"""`edgellm estimate`: what a model would take and give on a machine, before anything is downloaded or loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import gpu_layers, kv, models_dir, slots
from edgellm.errors import EdgeLLMError
from edgellm.units import show_memory, show_params, show_rate, show_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from edgellm.app.resolve import ResolvedModel
    from edgellm.selection.context import SelectionContext
    from edgellm.selection.fit import FitReport
    from edgellm.types.machine import Machine
    from edgellm.types.model import ModelCard
    from edgellm.types.plan import Rate
    from edgellm.types.request import SelectionRequest

SHOWN_PROBLEMS = 3
DOES_NOT_FIT = 3  # exit code of errors.NothingFits


@click.command()
@click.argument("model")
@click.option("--quant", metavar="NAME", help="The quantization of MODEL, such as Q4_K_M; all of them where unset.")
@click.option("--ctx", type=int, metavar="TOKENS", help="Context per slot; as selection would choose it where unset.")
@slots
@kv
@click.option(
    "--adapter", "adapters", multiple=True, metavar="FILE|rank=N", help="A LoRA kept beside the model (repeat)."
)
@click.option("--task", help="Whose speed floor and context count: chat, code, agent or embed.")
@click.option("--max-memory", metavar="SIZE", help="Most memory it may take, as 700MiB or 2GiB.")
@click.option("--backend", metavar="NAME", help="Only this backend.")
@gpu_layers
@click.option("--offline", is_flag=True, help="Make no requests: the catalog describes an address.")
@click.option("--profile", metavar="NAME|FILE", help="For another machine: a profile's name, or a TOML file.")
@models_dir
@click.option("--models-file", type=click.Path(path_type=Path), metavar="FILE", help="Catalog rows of your own.")
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
    from edgellm.app.adapters import adapter_bytes
    from edgellm.app.context import of, request_for
    from edgellm.app.file_plan import judged
    from edgellm.app.resolve import resolve
    from edgellm.selection.fit import fit_reports
    from edgellm.selection.scenario import Scenario
    from edgellm.types.options import SelectionOptions

    selection = SelectionOptions.of(**options)
    context = of(profile, gpu_build=selection.asks_for_gpu, models_file=models_file)
    resolved = resolve(model, context, quant=quant, offline=offline, predict=True)
    reads_only = resolved.card.kind in ("embedding", "reranker")
    request = request_for(context, selection, usual_task="embed" if reads_only else "chat")
    if resolved.artifact is not None and context.is_here:
        context = judged(context, resolved.artifact, resolved.card, request)
    scenario = Scenario.of(context.machine, request)
    adapters_bytes = adapter_bytes(adapters, resolved.card.shape)
    fits, refusals = fit_reports(resolved.card, context, scenario, adapter_bytes=adapters_bytes, others=resolved.others)
    chosen = _chosen(resolved.card, context, request)
    if as_json:
        from edgellm.selection import fit_json

        click.echo(
            json.dumps(fit_json.to_dict(resolved.card, resolved.basis, scenario, fits, refusals, chosen), indent=2)
        )
    else:
        _show(resolved, context.machine, explain.budget(scenario.budget), fits, chosen)
        for rejection in refusals:
            click.echo(f"Not predicted: {rejection.quant} {explain.refusal(rejection.reason)}.")
    return 0 if any(report.fits for report in fits) else DOES_NOT_FIT


def _chosen(card: ModelCard, context: SelectionContext, request: SelectionRequest) -> str:
    """The quantization of the card that selection would run; "" where it would run none."""
    from edgellm.selection.decide import decide
    from edgellm.selection.scenario import TASK_NEEDS

    candidate = replace(card, kind=TASK_NEEDS[request.task].kind)
    try:
        # Whether the file is stored, and which sources answer, does not matter here.
        choice = decide(replace(context.narrowed([candidate]), stored=frozenset()), request).choice
    except EdgeLLMError:
        return ""  # the reports say why
    return choice.quant if choice is not None else ""


def _show(
    resolved: ResolvedModel, machine: Machine, budget_reason: str, fits: Sequence[FitReport], chosen: str
) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if len(fits) == 1:
        _show_one(console, resolved, machine, budget_reason, fits[0])
    else:
        _show_all(console, resolved, machine, budget_reason, fits, chosen)


def _head(console: Console, resolved: ResolvedModel, machine: Machine, quant: str) -> None:
    from edgellm.selection.reasons import FREE_LICENSES

    card = resolved.card
    restricts = "" if card.license in (*FREE_LICENSES, "unknown") else ", which restricts use"
    console.print(f"{card.id} {quant}".strip() + f" on {machine.name}", style="bold", markup=False)
    active = f", {show_params(card.params_active)} of them active" if card.params_active < card.params else ""
    facts = f"{show_params(card.params)} parameters{active}, licence {card.license}{restricts}"
    console.print(f"{facts}; trained for {card.ctx_train:,} tokens", markup=False)
    console.print(f"facts from {resolved.basis}", markup=False)


def _show_one(
    console: Console, resolved: ResolvedModel, machine: Machine, budget_reason: str, report: FitReport
) -> None:
    from edgellm import explain
    from edgellm.selection.fit_json import size

    candidate, footprint, kept = report.candidate, report.candidate.footprint, report.kept
    _head(console, resolved, machine, candidate.quant)
    weights = size(resolved.card, report)
    rule = "as it is loaded" if resolved.card.files[0].format == "safetensors" else "by llama.cpp's rules"
    how = {"exact": "read from the file", "rule": rule, "estimate": "an estimate, within about 5 %"}[weights.basis]
    about = "" if weights.file_is_exact else "about "
    source, cells = candidate.source, f"{candidate.ctx:,} tokens in {candidate.kv_type}"
    is_address = source.startswith(("hf:", "pypi:", "file:"))
    quality = f"{candidate.quality:.0f} of 100 ({candidate.quality_low:.0f} to {candidate.quality_high:.0f})"
    retention = f"{kept.mid:.1%} kept in {candidate.quant} ({kept.low:.1%} to {kept.high:.1%})"
    console.print()
    rows = [
        ("weights", f"{show_size(candidate.tensor_bytes)} ({how}), file {about}{show_size(weights.file_bytes)}"),
        *((("", weights.own_types),) if weights.own_types else ()),
        ("from", source.split()[0] if is_address else source),
        ("run with", f"{cells}, slots: {candidate.slots}, threads: {candidate.threads}, {_backend(report)}"),
        ("decode", _span(candidate.decode)),
        ("", explain.basis(candidate.decode.basis)),
        ("prompts", _span(candidate.prefill)),
        ("", explain.basis(candidate.prefill.basis)),
        ("quality", f"{quality}; {explain.basis(report.ability)}"),
        ("", f"{retention}: {explain.basis(kept.basis)}"),
    ]
    if report.device_reason is not None:
        rows.append(("gpu", f"{explain.gpu(report.device_reason)}."))
    _pairs(console, rows)
    console.print()
    console.print(f"{'memory':<18}{'allocated':>12}{'resident':>12}", style="bold")
    for term in footprint.terms():
        sizes = f"{show_memory(term.allocated_bytes):>12}{show_memory(term.resident_bytes):>12}"
        console.print(f"{term.name:<18}{sizes}", markup=False)
    total = f"{show_memory(footprint.allocated_bytes):>12}{show_memory(footprint.resident_bytes):>12}"
    console.print(f"{'together':<18}{total}")
    if footprint.device_bytes:
        console.print(f"{'on the GPU':<18}{show_memory(footprint.device_bytes):>12}")
    console.print()
    console.print(f"{show_memory(report.counted_bytes)} count against {budget_reason}.", markup=False)
    console.print(explain.sentence(report.ctx_reason), markup=False)
    verdict_style = "bold green" if report.fits else "bold red"
    console.print(explain.verdict(report.verdict), style=verdict_style, markup=False)
    _show_remedies(console, report)


def _span(rate: Rate) -> str:
    return f"{show_rate(rate.tok_s)} tok/s ({show_rate(rate.low)} to {show_rate(rate.high)})"


def _pairs(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        # As Text, so that a name with square brackets is not taken for markup.
        table.add_row(label, Text(value))
    console.print(table)


def _show_remedies(console: Console, report: FitReport) -> None:
    if report.remedies:
        console.print("It would fit with" if len(report.remedies) == 1 else "It would fit with one of")
        for remedy in report.remedies:
            console.print(f"  {' '.join(remedy.flags):<40} {show_memory(remedy.counted_bytes):>10}", markup=False)
    elif not report.fits and report.candidate.backend:
        console.print("No flag makes it fit; `edgellm auto-select` chooses what does.", markup=False)


def _backend(report: FitReport) -> str:
    return f"backend {report.candidate.backend}" if report.candidate.backend else "no backend"


def _show_all(  # noqa: PLR0917
    console: Console,
    resolved: ResolvedModel,
    machine: Machine,
    budget_reason: str,
    fits: Sequence[FitReport],
    chosen: str,
) -> None:
    """A line for each quantization, the largest first."""
    from edgellm import explain

    _head(console, resolved, machine, "")
    console.print()
    quant, weights, context, memory, rate, share = "quant", "weights", "context", "memory", "tok/s", "kept"
    console.print(
        f"{quant:<11}{weights:>9} {context:>8} {memory:>9} {rate:>7} {share:>7}  verdict", style="bold", markup=False
    )
    for report in sorted(fits, key=lambda report: -report.candidate.tensor_bytes):
        candidate = report.candidate
        sizes = f"{show_size(candidate.tensor_bytes):>9} {candidate.ctx:>8,} {show_memory(report.counted_bytes):>9}"
        rates = f"{show_rate(report.rate_tps):>7} {report.kept.mid:>7.1%}"
        style = "red" if not report.fits else "green" if report.is_fast_enough else ""
        word = f"{_word(report)}, chosen" if candidate.quant == chosen else _word(report)
        console.print(f"{candidate.quant:<11}{sizes} {rates}  {word}", style=style, markup=False)
    if fits:
        console.print(f"\nMemory budget {budget_reason}.", markup=False)
        console.print(f"Quality before quantization: {explain.basis(fits[0].ability)}.", markup=False)
        for problem in list(dict.fromkeys(report.problems[0] for report in fits if report.problems))[:SHOWN_PROBLEMS]:
            console.print(f"Cannot be run so: {explain.problem(problem)}.", markup=False)
        console.print(f"`edgellm estimate {resolved.card.id}:QUANT` shows every term of one.", markup=False)


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
