"""`edgellm models`: which models there are, which of them fit here, and which are on this disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgellm.model import ModelCard
    from edgellm.store.entry import Stored

SCHEMA = 1


@click.command()
@click.option("--task", help="Only models that this task chooses from: chat, code or agent.")
@click.option("--fits", is_flag=True, help="Only models that fit this machine, in the quantization it would run.")
@click.option("--installed", is_flag=True, help="Only what is on this disk.")
@click.option("--models-file", type=click.Path(path_type=Path), metavar="FILE", help="Catalog rows of your own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/selection.md).")
def command(*, task: str | None, fits: bool, installed: bool, models_file: Path | None, as_json: bool) -> None:
    """List the catalog and what is on this disk."""
    from edgellm import launch
    from edgellm.store.library import Library

    stored = Library().installed()
    if task is not None:
        _check_task(task)
    if installed:
        _print_stored(stored, as_json)
        return
    cards = sorted(launch.cards(models_file), key=lambda card: (card.kind, -card.params, card.id))
    if task is not None or fits:
        cards = [card for card in cards if card.kind == "chat"]
    plans = _plans(cards, task or "chat") if fits else {}
    listed = [_row(card, stored, plans.get(card.id)) for card in cards if not fits or card.id in plans]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "models": listed}, indent=2))
    else:
        _print_rows(listed, fits=fits)


def _check_task(task: str) -> None:
    from edgellm.request import SelectionRequest

    SelectionRequest(task=task)  # type: ignore[arg-type]  # raises for a task that does not exist


def _plans(cards: list[ModelCard], task: str) -> dict[str, dict[str, Any]]:
    """Model -> how it would be run here, for those that fit and are fast enough; one decision for each model."""
    from edgellm.cli.auto_select import backends, the_machine
    from edgellm.errors import NothingFits
    from edgellm.request import SelectionRequest
    from edgellm.selection.decide import decide
    from edgellm.selection.report import to_dict

    machine = the_machine(None)
    request = SelectionRequest(task=task)  # type: ignore[arg-type]
    facts = backends(machine, request, is_here=True)
    found: dict[str, dict[str, Any]] = {}
    for card in cards:
        try:
            decision = to_dict(decide(machine, request, [card], facts))
        except NothingFits:
            continue
        choice = decision["choice"]
        if choice["decode"]["tok_s"] < decision["inputs"]["floor_tps"]:
            continue
        found[card.id] = {key: choice[key] for key in ("quant", "backend", "ctx", "tensor_bytes", "decode", "memory")}
    return found


def _row(card: ModelCard, stored: list[Stored], plan: dict[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": card.id,
        "kind": card.kind,
        "params": card.params,
        "params_active": card.params_active,
        "ctx_train": card.ctx_train,
        "license": card.license,
        "quants": sorted({file.quant for file in card.files}),
        "installed": sorted({s.quant for s in stored if s.model_id == card.id and not s.problem}),
        "source": card.source,
        "trust": card.trust,
    }
    return row if plan is None else {**row, "here": plan}


def _print_rows(listed: list[dict[str, Any]], *, fits: bool) -> None:
    from edgellm.units import show_params

    width = max((len(row["id"]) for row in listed), default=0)
    click.echo(f"{'model':<{width}}  params    context  {'here' if fits else 'licence'}")
    for row in listed:
        disk = f"  (on disk: {' '.join(row['installed'])})" if row["installed"] else ""
        kind = "" if row["kind"] == "chat" else f"  {row['kind']}"
        told = _here(row["here"]) if fits else row["license"]
        numbers = f"{show_params(row['params']):>6}  {row['ctx_train']:>9,}"
        click.echo(f"{row['id']:<{width}}  {numbers}  {told}{kind}{disk}")
    click.echo(f"\n{len(listed)} models. `edgellm auto-select` chooses one, `edgellm quants` explains the names.")


def _here(plan: dict[str, Any]) -> str:
    from edgellm.units import show_memory, show_rate

    memory = show_memory(plan["memory"]["resident_bytes"])
    return f"{plan['quant']}, {plan['ctx']:,} tokens, {show_rate(plan['decode']['tok_s'])} tok/s, {memory}"


def _print_stored(stored: list[Stored], as_json: bool) -> None:
    from edgellm.units import show_size

    entries: list[dict[str, Any]] = [
        {
            "id": s.model_id,
            "quant": s.quant,
            "bytes": s.bytes,
            "source": s.source,
            "problem": s.problem,
            "folder": str(s.folder),
        }
        for s in stored
    ]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "installed": entries}, indent=2))
        return
    for entry in entries:
        problem = f"  damaged: {entry['problem']}" if entry["problem"] else ""
        click.echo(f"{entry['id']} {entry['quant']}  {show_size(entry['bytes'])}{problem}")
        click.echo(f"    {entry['folder']}")
    if not entries:
        click.echo("Nothing is stored yet. `edgellm serve` fetches what it chooses.")
