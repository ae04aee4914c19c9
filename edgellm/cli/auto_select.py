"""`edgellm auto-select`: which model this machine runs well, and why. Touches no network and loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import device, gpu_layers, kv, models_dir, models_file, profile, slots, think, threads
from edgellm.cli.download import max_download
from edgellm.cli.page import examples, say, say_whole
from edgellm.cli.placed import on_gpus
from edgellm.cli.words import BACKEND, TASK, TOKENS
from edgellm.units import show_memory, show_params, show_rate, show_size

if TYPE_CHECKING:
    from edgellm.selection.context import SelectionContext
    from edgellm.types.machine import Machine
    from edgellm.types.plan import Candidate, Decision
    from edgellm.types.request import SelectionRequest

NOTHING_TO_BE_HAD = 5  # exit code of errors.SourceError: something fits, but none of it can be had
SHOWN_REJECTIONS = 6


@click.command(
    epilog=examples(
        "edgellm auto-select",
        "edgellm auto-select --task code --ctx 32k",
        "edgellm auto-select --profile raspberry-pi-5-8gb",
    )
)
@click.option("--task", default="chat", show_default=True, type=TASK, help="What the model is for.")
@click.option("--ctx", type=TOKENS, metavar="TOKENS", help="Context per slot that it must hold, as 8192 or 32k.")
@click.option("--min-tps", type=float, metavar="RATE", help="Slowest acceptable rate, tokens per second.")
@click.option("--max-memory", metavar="SIZE", help="Most memory it may take, as 700MiB or 2GiB.")
@max_download
@click.option("--backend", type=BACKEND, help="Only models for this backend.")
@slots
@threads
@gpu_layers
@device
@kv
@think
@click.option(
    "--adapter", "adapters", multiple=True, metavar="NAME|FILE",
    help="Only models that can answer with this adapter, stored or a GGUF file.",
)  # fmt: skip
@click.option("--offline", is_flag=True, help="Only what is on this disk already.")
@profile("Choose for another machine")
@models_dir
@models_file
@click.option("--explain", is_flag=True, help="Show every candidate that was rejected, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/auto-select-json.md).")
def command(
    *,
    profile: str | None,
    models_file: Path | None,
    explain: bool,
    as_json: bool,
    adapters: tuple[str, ...],
    **options: Any,
) -> int:
    """Choose the best model that this machine runs well, and say why."""
    from edgellm.app.context import of, request_for
    from edgellm.selection import decision_json
    from edgellm.selection.decide import decide
    from edgellm.types.options import SelectionOptions

    selection = SelectionOptions.of(**options)
    context = of(profile, models_file=models_file)
    request = request_for(context, selection)
    if adapters:
        from edgellm.app import adapters as app_adapters

        beside = app_adapters.asked(adapters)
        n_bytes = sum(one.file.bytes for one in beside)
        request = replace(request, adapters=app_adapters.needs(beside), adapter_bytes=n_bytes)
    decision = _with_room(decide(context, request), context, request)
    if as_json:
        say_whole(decision_json.text(decision))
    else:
        _show(decision, context, request, explain=explain)
        _show_scores(adapters)
    return 0 if decision.choice is not None else NOTHING_TO_BE_HAD


def _with_room(decision: Decision, context: SelectionContext, request: SelectionRequest) -> Decision:
    """With what is to be said where the disk here does not hold what would be fetched: no model is chosen by it, as
    the same machine is to have the same model, whatever else lies on its disk."""
    from edgellm.app.download import PlannedDownload

    choice = decision.choice
    if choice is None or request.offline or not context.is_here:
        return decision
    planned = PlannedDownload(*context.chosen(choice), choice, context, request)
    if planned.is_here or (no_room := planned.no_room) is None:
        return decision
    return replace(decision, reasons=(*decision.reasons, no_room))


def _show(decision: Decision, context: SelectionContext, request: SelectionRequest, *, explain: bool) -> None:
    from edgellm.explain import sentence
    from edgellm.selection.decision_json import one_line
    from edgellm.types.backend_reason import BuildNeeded, GpuWouldGive
    from edgellm.types.reason import NoRoom, RulesUnasked

    machine, above = context.machine, GpuWouldGive | BuildNeeded | RulesUnasked | NoRoom
    reads_only = request.task == "embed"
    if decision.choice is None:
        say("Nothing can be had now.", bold=True)
        say(
            "Without a network nothing is fetched. Where there is one, `edgellm pull` (without --offline and "
            "EDGELLM_OFFLINE) fetches the best; or bring a model file, and name it: `edgellm run PATH.gguf`."
        )
    else:
        _show_choice(decision.choice, machine, reads_only=reads_only)
        if not request.offline:
            _show_whether_it_is_here(decision.choice, context, request)
    for reason in decision.reasons:
        if isinstance(reason, above):
            say(sentence(reason), fg=None if isinstance(reason, BuildNeeded) else "yellow")
    if decision.would_choose is not None:
        say(f"With every source: {one_line(decision.would_choose, reads_only=reads_only)}")
    if machine.memory.bandwidth_contended:
        say(
            "Other programs kept this machine busy when its memory was measured: speeds may be predicted too low and a "
            "smaller model chosen. It is measured again each time until it is quiet."
        )
    say("\nWhy", bold=True)
    below = [reason for reason in decision.reasons if not isinstance(reason, above)]
    for number, reason in enumerate(below, 1):
        say(sentence(reason), lead=f"{number:3}. ")
    _show_runners_up(decision, reads_only=reads_only)
    _show_rejected(decision, explain=explain)
    if machine.source_trust == "unverified":
        say("\nThe numbers of this profile are unverified: written from memory, not looked up.")


def _show_scores(adapters: Sequence[str]) -> None:
    """What was measured of those that are stored."""
    from edgellm.explain.tuning import scores
    from edgellm.store.adapters import AdapterStore

    stored = [one for one in AdapterStore().installed() if one.name in adapters] if adapters else []
    records = [(one.label, one.record) for one in stored if one.record is not None]
    lines = filter(None, (scores(label, record.figures, record.against) for label, record in records))
    for number, line in enumerate(lines):
        if not number:
            say("\nMeasured when it was tuned", bold=True)
        say(line, lead="     ")


def _show_choice(c: Candidate, machine: Machine, *, reads_only: bool) -> None:
    speed = c.prefill if reads_only else c.decode
    rate = f"{show_rate(speed.tok_s)} tok/s ({show_rate(speed.low)} to {show_rate(speed.high)})"
    threads = str(c.threads) if c.threads == c.threads_batch else f"{c.threads} and {c.threads_batch} for prompts"
    say(f"{c.model} {c.quant}", bold=True, fg="green")
    for line in (
        f"reads about {rate}" if reads_only else f"about {rate}, prompts at {show_rate(c.prefill.tok_s)}",
        *on_gpus(c),
        f"{show_memory(c.counted_bytes)} of memory",
        f"{show_params(c.params)} parameters, {show_size(c.tensor_bytes)} of weights, for {machine.name}",
        f"{c.ctx:,} tokens of context in {c.kv_type}, slots: {c.slots}, threads: {threads}, backend: {c.backend}",
        f"quality {c.quality:.0f} of 100 "
        f"({c.quality_low:.0f} to {c.quality_high:.0f}): what {c.quant} leaves of its ability",
        f"licence {c.license}, from {c.source.split()[0]}",
    ):
        say(line, lead="  ")


def _show_whether_it_is_here(choice: Candidate, context: SelectionContext, request: SelectionRequest) -> None:
    """Nothing here asks the network: what must be fetched may not be to be had, and what lies here is."""
    from edgellm.app.download import PlannedDownload
    from edgellm.errors import NothingFits
    from edgellm.selection.decide import decide
    from edgellm.selection.decision_json import one_line

    if not context.is_here:
        say("Planned as if every source answered.")
        return
    card, file = context.chosen(choice)
    download = PlannedDownload(card, file, choice, context, request)
    if download.is_here:
        say("It is on this disk.")
        return
    say(f"Not on this disk: {show_size(download.bytes)} to fetch, if its source answers; `edgellm serve` finds out.")
    try:
        here = decide(context, replace(request, offline=True)).choice
    except NothingFits:  # something is here
        say("Nothing that is on this disk would do.")
        return
    if here is not None:
        say(f"Best on this disk (--offline): {one_line(here, reads_only=request.task == 'embed')}")


def _show_runners_up(decision: Decision, *, reads_only: bool) -> None:
    from edgellm.explain import refusal
    from edgellm.selection.decision_json import one_line

    if decision.runners_up:
        say("\nRunners-up", bold=True)
    for candidate in decision.runners_up:
        lost = [r.reason for r in decision.rejected if r.model == candidate.model and r.rule == "best_model"]
        say(one_line(candidate, reads_only=reads_only), lead="  ")
        if lost:
            say(refusal(lost[0]), lead="    ")


def _show_rejected(decision: Decision, *, explain: bool) -> None:
    from edgellm.explain import refusal

    rejections = decision.rejected if explain else _telling(decision)
    if not rejections:
        return
    say(f"\nRejected ({len(decision.rejected):,}{'' if explain else ', --explain shows all'})", bold=True)
    for r in rejections:
        cached = f"({r.kv_type} cache)" if r.kv_type else ""
        name = " ".join(filter(None, (r.model, r.quant, cached)))
        say(f"{name}: {refusal(r.reason)}", lead=f"  {r.rule:<16} ")


def _telling(decision: Decision) -> list[Any]:
    """One rejection for each rule: the first of a whole model, else the first."""
    by_rule: dict[str, Any] = {}
    for r in decision.rejected:
        if r.rule not in by_rule or (by_rule[r.rule].quant and not r.quant):
            by_rule[r.rule] = r
    return list(by_rule.values())[:SHOWN_REJECTIONS]
