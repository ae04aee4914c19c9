"""`edgellm auto-select`: which model this machine runs well, and why. Touches no network and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import gpu_layers, kv, models_dir

if TYPE_CHECKING:
    from edgellm.selection.scenario import BackendFacts
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
@click.option("--slots", type=int, default=1, show_default=True, help="Conversations at the same time.")
@gpu_layers
@kv
@click.option("--offline", is_flag=True, help="Only what is on this disk already.")
@click.option("--profile", metavar="NAME|FILE", help="Choose for another machine: a profile's name, or a TOML file.")
@models_dir
@click.option("--models-file", type=click.Path(path_type=Path), metavar="FILE", help="Catalog rows of your own.")
@click.option("--explain", is_flag=True, help="Show every candidate that was rejected, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/auto-select-json.md).")
def command(*, profile: str | None, models_file: Path | None, explain: bool, as_json: bool, **asked: Any) -> int:
    """Choose the best model that this machine runs well, and say why."""
    from edgellm.app import context
    from edgellm.history import run_log
    from edgellm.selection.decide import decide
    from edgellm.selection.expand import NO_CORRECTIONS, NO_DIVERGENCES, NO_VETOES
    from edgellm.selection.report import to_dict

    here = profile is None
    wanted = request(here=here, **asked)
    machine = the_machine(profile)
    facts = backends(machine, wanted, is_here=here)
    decision = decide(
        machine,
        wanted,
        context.cards(models_file, here=here),
        facts,
        _local(wanted, is_here=here),
        corrections=context.corrections(machine, facts) if here else NO_CORRECTIONS,
        vetoes=run_log.vetoes(machine) if here else NO_VETOES,
        divergences=context.divergences(machine) if here else NO_DIVERGENCES,
        extra_rules=context.rules(),
    )
    if as_json:
        click.echo(json.dumps(to_dict(decision), indent=2))
    else:
        _show(decision, machine, wanted, explain=explain)
    return 0 if decision.choice is not None else NOTHING_TO_BE_HAD


def request(
    *,
    max_memory: str | None,
    ctx: int | None,
    offline: bool,
    gpu_layers: str,
    kv: str = "auto",
    here: bool = True,
    **asked: Any,
) -> SelectionRequest:
    """The request that the flags describe. EDGELLM_OFFLINE is about this machine, not about another (`here` False).

    Raises:
        UsageError: a value out of range.
    """
    from edgellm import settings
    from edgellm.types.request import SelectionRequest, cache_type, layers_on_gpu
    from edgellm.units import parse_bytes

    memory = None if max_memory is None else parse_bytes(max_memory)
    layers = layers_on_gpu(gpu_layers)
    is_offline = offline or (here and settings.offline())
    cache = cache_type(kv)
    return SelectionRequest(
        ctx=ctx, max_memory_bytes=memory, offline=is_offline, gpu_layers=layers, kv_type=cache, **asked
    )


def the_machine(profile: str | None) -> Machine:
    """This machine, or the one that a profile describes.

    Raises:
        UnknownProfile, UsageError.
    """
    if profile is not None:
        from edgellm.hardware import profiles

        return profiles.load(profile)
    from edgellm.hardware.probe import probe

    return probe()


def backends(machine: Machine, wanted: SelectionRequest, *, is_here: bool) -> Sequence[BackendFacts]:
    """The installed backends. Whether they run is asked for this machine only; on another they are assumed to."""
    from edgellm.contract.manager import plugins
    from edgellm.selection.scenario import assumed_facts, backend_facts

    installed = plugins().backends().values()
    return backend_facts(installed, machine) if is_here else assumed_facts(installed, machine, wanted)


def _local(wanted: SelectionRequest, *, is_here: bool) -> frozenset[str]:
    if not is_here:
        return frozenset()
    from edgellm.store.library import Library

    return Library().local_keys()


def _show(decision: Decision, machine: Machine, wanted: SelectionRequest, *, explain: bool) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if decision.choice is None:
        console.print("Nothing can be had now.", style="bold")
    else:
        _show_choice(console, decision.choice, machine, reads_only=wanted.task == "embed")
    if decision.would_choose is not None:
        from edgellm.selection.report import one_line

        line = one_line(decision.would_choose, reads_only=wanted.task == "embed")
        console.print(f"With every source: {line}", markup=False)
    console.print("\nWhy", style="bold")
    for number, reason in enumerate(decision.reasons, 1):
        console.print(f"{number:3}. {reason}", markup=False)
    _show_runners_up(console, decision, reads_only=wanted.task == "embed")
    _show_rejected(console, decision, explain=explain)
    if machine.source_trust == "unverified":
        console.print("\nThe numbers of this profile are unverified: written from memory, not looked up.")
    if not wanted.offline:
        note = "Planned as if every source answered; `edgellm serve` finds out, and --offline plans for this disk only."
        console.print(f"\n{note}", markup=False)


def _show_choice(console: Any, c: Candidate, machine: Machine, *, reads_only: bool) -> None:
    from edgellm.units import show_memory, show_params, show_rate, show_size

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
    from edgellm.units import show_memory

    if not c.gpu_layers:
        return ""
    layers = "all layers" if c.gpu_layers < 0 else f"{c.gpu_layers} layers"
    beside = f" and {show_memory(c.footprint.device_bytes)} of the GPU's" if c.footprint.device_bytes else ""
    return f"{beside}, {layers} on the GPU"


def _show_runners_up(console: Any, decision: Decision, *, reads_only: bool) -> None:
    from edgellm.selection.report import one_line

    if decision.runners_up:
        console.print("\nRunners-up", style="bold")
    for candidate in decision.runners_up:
        lost = next((r.reason for r in decision.rejected if r.model == candidate.model and r.rule == "best_model"), "")
        console.print(f"  {one_line(candidate, reads_only=reads_only)}", markup=False)
        if lost:
            console.print(f"    {lost}", markup=False)


def _show_rejected(console: Any, decision: Decision, *, explain: bool) -> None:
    shown = decision.rejected if explain else _telling(decision)
    if not shown:
        return
    console.print(f"\nRejected ({len(decision.rejected):,}{'' if explain else ', --explain shows all'})", style="bold")
    for r in shown:
        cached = f"({r.kv_type} cache)" if r.kv_type else ""
        name = " ".join(filter(None, (r.model, r.quant, cached)))
        console.print(f"  {r.rule:<16} {name}: {r.reason}", markup=False)


def _telling(decision: Decision) -> list[Any]:
    """One rejection for each rule: the first of a whole model, else the first."""
    chosen: dict[str, Any] = {}
    for r in decision.rejected:
        if r.rule not in chosen or (chosen[r.rule].quant and not r.quant):
            chosen[r.rule] = r
    return list(chosen.values())[:SHOWN_REJECTIONS]
