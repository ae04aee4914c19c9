"""`edgellm auto-select`: which model this machine runs well, and why. Touches no network and loads nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import gpu_layers, kv, models_dir, slots
from edgellm.units import show_memory, show_params, show_rate, show_size

if TYPE_CHECKING:
    from edgellm.types.machine import Machine
    from edgellm.types.plan import Candidate, Decision
    from edgellm.types.request import SelectionRequest

NOTHING_TO_BE_HAD = 5  # exit code of errors.SourceError: something fits, but none of it can be had
SHOWN_REJECTIONS = 6


@click.command()
@click.option("--task", default="chat", show_default=True, help="What it is for: chat, code, agent or embed.")
@click.option("--ctx", type=int, metavar="TOKENS", help="Context per slot that it must hold.")
@click.option("--min-tps", type=float, metavar="RATE", help="Slowest acceptable rate, tokens per second.")
@click.option("--max-memory", metavar="SIZE", help="Most memory it may take, as 700MiB or 2GiB.")
@click.option("--backend", metavar="NAME", help="Only models for this backend.")
@slots
@gpu_layers
@kv
@click.option("--offline", is_flag=True, help="Only what is on this disk already.")
@click.option("--profile", metavar="NAME|FILE", help="Choose for another machine: a profile's name, or a TOML file.")
@models_dir
@click.option("--models-file", type=click.Path(path_type=Path), metavar="FILE", help="Catalog rows of your own.")
@click.option("--explain", is_flag=True, help="Show every candidate that was rejected, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/auto-select-json.md).")
def command(*, profile: str | None, models_file: Path | None, explain: bool, as_json: bool, **options: Any) -> int:
    """Choose the best model that this machine runs well, and say why."""
    from edgellm.app.context import of, request_for
    from edgellm.selection import decision_json
    from edgellm.selection.decide import decide
    from edgellm.types.options import SelectionOptions

    selection = SelectionOptions.of(**options)
    context = of(profile, gpu_build=selection.asks_for_gpu, models_file=models_file)
    request = request_for(context, selection)
    decision = decide(context, request)
    if as_json:
        click.echo(_indented(decision_json.to_dict(decision)))
    else:
        _show(decision, context.machine, request, explain=explain)
    return 0 if decision.choice is not None else NOTHING_TO_BE_HAD


def _indented(report: dict[str, Any]) -> str:
    """As `json.dumps(report, indent=2)`, in a tenth of the time: the rejected are many."""
    import msgspec

    encoded = msgspec.json.encode(report)
    return msgspec.json.format(encoded, indent=2).decode() if encoded.isascii() else json.dumps(report, indent=2)


def _show(decision: Decision, machine: Machine, request: SelectionRequest, *, explain: bool) -> None:
    from rich.console import Console

    from edgellm.explain import sentence

    console = Console(soft_wrap=True, highlight=False)
    if decision.choice is None:
        console.print("Nothing can be had now.", style="bold")
    else:
        _show_choice(console, decision.choice, machine, reads_only=request.task == "embed")
    if decision.would_choose is not None:
        from edgellm.selection.decision_json import one_line

        line = one_line(decision.would_choose, reads_only=request.task == "embed")
        console.print(f"With every source: {line}", markup=False)
    console.print("\nWhy", style="bold")
    for number, reason in enumerate(decision.reasons, 1):
        console.print(f"{number:3}. {sentence(reason)}", markup=False)
    _show_runners_up(console, decision, reads_only=request.task == "embed")
    _show_rejected(console, decision, explain=explain)
    if machine.source_trust == "unverified":
        console.print("\nThe numbers of this profile are unverified: written from memory, not looked up.")
    if not request.offline:
        note = "Planned as if every source answered; `edgellm serve` finds out, and --offline plans for this disk only."
        console.print(f"\n{note}", markup=False)


def _show_choice(console: Any, c: Candidate, machine: Machine, *, reads_only: bool) -> None:
    speed = c.prefill if reads_only else c.decode
    rate = f"{show_rate(speed.tok_s)} tok/s ({show_rate(speed.low)} to {show_rate(speed.high)})"
    threads = str(c.threads) if c.threads == c.threads_batch else f"{c.threads} and {c.threads_batch} for prompts"
    console.print(f"{c.model} {c.quant}", style="bold green", markup=False)
    lines = (
        f"{show_params(c.params)} parameters, {show_size(c.tensor_bytes)} of weights, for {machine.name}",
        f"{c.ctx:,} tokens of context in {c.kv_type}, slots: {c.slots}, threads: {threads}, backend: {c.backend}",
        f"reads about {rate}" if reads_only else f"about {rate}, prompts at {show_rate(c.prefill.tok_s)}",
        f"{show_memory(c.footprint.needed_bytes)} of memory{_on_gpu(c)}",
        f"expected quality {c.quality:.0f} of 100 ({c.quality_low:.0f} to {c.quality_high:.0f})",
        f"licence {c.license}, from {c.source.split()[0]}",
    )
    for line in lines:
        console.print(f"  {line}", markup=False)


def _on_gpu(c: Candidate) -> str:
    if not c.gpu_layers:
        return ""
    layers = "all layers" if c.gpu_layers < 0 else f"{c.gpu_layers} layers"
    beside = f" and {show_memory(c.footprint.device_bytes)} of the GPU's" if c.footprint.device_bytes else ""
    return f"{beside}, {layers} on the GPU"


def _show_runners_up(console: Any, decision: Decision, *, reads_only: bool) -> None:
    from edgellm.explain import refusal
    from edgellm.selection.decision_json import one_line

    if decision.runners_up:
        console.print("\nRunners-up", style="bold")
    for candidate in decision.runners_up:
        lost = [r.reason for r in decision.rejected if r.model == candidate.model and r.rule == "best_model"]
        console.print(f"  {one_line(candidate, reads_only=reads_only)}", markup=False)
        if lost:
            console.print(f"    {refusal(lost[0])}", markup=False)


def _show_rejected(console: Any, decision: Decision, *, explain: bool) -> None:
    from edgellm.explain import refusal

    rejections = decision.rejected if explain else _telling(decision)
    if not rejections:
        return
    console.print(f"\nRejected ({len(decision.rejected):,}{'' if explain else ', --explain shows all'})", style="bold")
    for r in rejections:
        cached = f"({r.kv_type} cache)" if r.kv_type else ""
        name = " ".join(filter(None, (r.model, r.quant, cached)))
        console.print(f"  {r.rule:<16} {name}: {refusal(r.reason)}", markup=False)


def _telling(decision: Decision) -> list[Any]:
    """One rejection for each rule: the first of a whole model, else the first."""
    by_rule: dict[str, Any] = {}
    for r in decision.rejected:
        if r.rule not in by_rule or (by_rule[r.rule].quant and not r.quant):
            by_rule[r.rule] = r
    return list(by_rule.values())[:SHOWN_REJECTIONS]
