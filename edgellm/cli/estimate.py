"""`edgellm estimate`: what a model would take and give on a machine, before anything is downloaded or loaded."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import gpu_layers, kv, models_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from edgellm.app.resolve import ResolvedModel
    from edgellm.selection.context import SelectionContext
    from edgellm.selection.fit import FitReport
    from edgellm.types.machine import Machine
    from edgellm.types.model import ModelCard
    from edgellm.types.request import SelectionRequest

SHOWN_PROBLEMS = 3
DOES_NOT_FIT = 3  # exit code of errors.NothingFits


@click.command()
@click.argument("model")
@click.option("--quant", metavar="NAME", help="The quantization of MODEL, such as Q4_K_M; all of them where unset.")
@click.option("--ctx", type=int, metavar="TOKENS", help="Context per slot; as selection would choose it where unset.")
@click.option("--slots", type=int, default=1, show_default=True, help="Conversations at the same time.")
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
    from edgellm.app.file_plan import opened
    from edgellm.app.resolve import resolve
    from edgellm.errors import UnsupportedArtifact, UsageError
    from edgellm.selection.fit import fit_reports
    from edgellm.selection.scenario import Scenario
    from edgellm.types.options import SelectionOptions

    selection = SelectionOptions.of(**options)
    context = of(profile, gpu_build=selection.asks_for_gpu, models_file=models_file)
    resolved = resolve(model, context, quant=quant, offline=offline, predict=True)
    reads_only = resolved.card.kind in ("embedding", "reranker")
    request = request_for(context, selection, usual_task="embed" if reads_only else "chat")
    if resolved.artifact is not None and context.is_here:
        with contextlib.suppress(UnsupportedArtifact, UsageError):  # the reports say why nothing opens it
            context = opened(context, resolved.artifact, request)
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
        for r in refusals:
            click.echo(f"Not predicted: {r.quant} {explain.refusal(r.reason)}.")
    return 0 if any(a.fits for a in fits) else DOES_NOT_FIT


def _chosen(card: ModelCard, context: SelectionContext, request: SelectionRequest) -> str:
    """The quantization of the card that selection would run; "" where it would run none."""
    from edgellm.errors import EdgeLLMError
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
    from edgellm.units import show_params

    card = resolved.card
    restricts = "" if card.license in (*FREE_LICENSES, "unknown") else ", which restricts use"
    console.print(f"{card.id} {quant}".strip() + f" on {machine.name}", style="bold", markup=False)
    active = f", {show_params(card.params_active)} of them active" if card.params_active < card.params else ""
    facts = f"{show_params(card.params)} parameters{active}, licence {card.license}{restricts}"
    console.print(f"{facts}; trained for {card.ctx_train:,} tokens", markup=False)
    console.print(f"facts from {resolved.basis}", markup=False)


def _show_one(console: Console, resolved: ResolvedModel, machine: Machine, budget_reason: str, a: FitReport) -> None:
    from edgellm import explain
    from edgellm.selection.fit_json import size
    from edgellm.units import show_memory, show_rate, show_size

    c = a.candidate
    _head(console, resolved, machine, c.quant)
    weights = size(resolved.card, a)
    rule = "as it is loaded" if resolved.card.files[0].format == "safetensors" else "by llama.cpp's rules"
    how = {"exact": "read from the file", "rule": rule, "estimate": "an estimate, within about 5 %"}
    about = "" if weights.file_is_exact else "about "
    ability, retention = explain.basis(a.ability), explain.basis(a.kept.basis)
    console.print()
    rows = [
        ("weights", f"{show_size(c.tensor_bytes)} ({how[weights.basis]}), file {about}{show_size(weights.file_bytes)}"),
        *((("", weights.own_types),) if weights.own_types else ()),
        ("from", c.source.split()[0] if c.source.startswith(("hf:", "pypi:", "file:")) else c.source),
        ("run with", f"{c.ctx:,} tokens in {c.kv_type}, slots: {c.slots}, threads: {c.threads}, {_backend(a)}"),
        ("decode", f"{show_rate(c.decode.tok_s)} tok/s ({show_rate(c.decode.low)} to {show_rate(c.decode.high)})"),
        ("", explain.basis(c.decode.basis)),
        ("prompts", f"{show_rate(c.prefill.tok_s)} tok/s ({show_rate(c.prefill.low)} to {show_rate(c.prefill.high)})"),
        ("", explain.basis(c.prefill.basis)),
        ("quality", f"{c.quality:.0f} of 100 ({c.quality_low:.0f} to {c.quality_high:.0f}); {ability}"),
        ("", f"{a.kept.mid:.1%} kept in {c.quant} ({a.kept.low:.1%} to {a.kept.high:.1%}): {retention}"),
    ]
    if a.device_reason is not None:
        rows.append(("gpu", f"{explain.gpu(a.device_reason)}."))
    _pairs(console, rows)
    console.print()
    console.print(f"{'memory':<18}{'allocated':>12}{'resident':>12}", style="bold")
    for term in c.footprint.terms():
        sizes = f"{show_memory(term.allocated_bytes):>12}{show_memory(term.resident_bytes):>12}"
        console.print(f"{term.name:<18}{sizes}", markup=False)
    total = f"{show_memory(c.footprint.allocated_bytes):>12}{show_memory(c.footprint.resident_bytes):>12}"
    console.print(f"{'together':<18}{total}")
    if c.footprint.device_bytes:
        console.print(f"{'on the GPU':<18}{show_memory(c.footprint.device_bytes):>12}")
    counted = f"{show_memory(a.counted_bytes)} count against {budget_reason}."
    console.print()
    console.print(counted, markup=False)
    console.print(explain.sentence(a.ctx_reason), markup=False)
    console.print(explain.verdict(a.verdict), style="bold green" if a.fits else "bold red", markup=False)
    _show_remedies(console, a)


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


def _show_remedies(console: Console, a: FitReport) -> None:
    from edgellm.units import show_memory

    if a.remedies:
        console.print("It would fit with" if len(a.remedies) == 1 else "It would fit with one of")
        for remedy in a.remedies:
            console.print(f"  {' '.join(remedy.flags):<40} {show_memory(remedy.counted_bytes):>10}", markup=False)
    elif not a.fits and a.candidate.backend:
        console.print("No flag makes it fit; `edgellm auto-select` chooses what does.", markup=False)


def _backend(a: FitReport) -> str:
    return f"backend {a.candidate.backend}" if a.candidate.backend else "no backend"


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
    from edgellm.units import show_memory, show_rate, show_size

    _head(console, resolved, machine, "")
    console.print()
    quant, weights, context, memory, rate, share = "quant", "weights", "context", "memory", "tok/s", "kept"
    console.print(
        f"{quant:<11}{weights:>9} {context:>8} {memory:>9} {rate:>7} {share:>7}  verdict", style="bold", markup=False
    )
    for a in sorted(fits, key=lambda a: -a.candidate.tensor_bytes):
        c = a.candidate
        numbers = f"{show_size(c.tensor_bytes):>9} {c.ctx:>8,} {show_memory(a.counted_bytes):>9}"
        rates = f"{show_rate(a.rate_tps):>7} {a.kept.mid:>7.1%}"
        style = "green" if a.fits and a.is_fast_enough else "" if a.fits else "red"
        word = f"{_word(a)}, chosen" if c.quant == chosen else _word(a)
        console.print(f"{c.quant:<11}{numbers} {rates}  {word}", style=style, markup=False)
    if fits:
        console.print(f"\nMemory budget {budget_reason}.", markup=False)
        console.print(f"Quality before quantization: {explain.basis(fits[0].ability)}.", markup=False)
        for problem in list(dict.fromkeys(a.problems[0] for a in fits if a.problems))[:SHOWN_PROBLEMS]:
            console.print(f"Cannot be run so: {explain.problem(problem)}.", markup=False)
        console.print(f"`edgellm estimate {resolved.card.id}:QUANT` shows every term of one.", markup=False)


def _word(a: FitReport) -> str:
    from edgellm.types.verdict import CannotRun, DoesNotFit, Fits, FitsSlowly
    from edgellm.units import show_memory

    match a.verdict:
        case DoesNotFit(missing_bytes=missing_bytes):
            return f"{show_memory(missing_bytes)} too much"
        case CannotRun():
            return "cannot run so" if a.candidate.backend else "no backend"
        case FitsSlowly():
            return "fits, slow"
        case Fits():
            return "fits"
