"""`edgellm models`: which models there are, which fit here or on another machine, and which are on this disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import models_dir
from edgellm.errors import NothingFits, UsageError
from edgellm.units import show_memory, show_params, show_rate, show_size

if TYPE_CHECKING:
    from edgellm.selection.context import SelectionContext
    from edgellm.store.manifest import StoredModel
    from edgellm.types.model import ModelCard
    from edgellm.types.request import SelectionRequest

SCHEMA = 1
COLUMNS = ("quant", "weights", "context", "tok/s", "memory")  # of --fits


@click.command()
@click.option("--task", help="Only models that this task chooses from: chat, code, agent or embed.")
@click.option("--fits", is_flag=True, help="Only models that this machine runs well, and how it would run them.")
@click.option("--profile", metavar="NAME|FILE", help="With --fits: another machine, a profile's name or a TOML file.")
@click.option("--installed", is_flag=True, help="Only what is on this disk.")
@models_dir
@click.option("--models-file", type=click.Path(path_type=Path), metavar="FILE", help="Catalog rows of your own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/selection.md).")
def command(
    *, task: str | None, fits: bool, profile: str | None, installed: bool, models_file: Path | None, as_json: bool
) -> None:
    """List the catalog and what is on this disk."""
    from edgellm.app.context import cards as known_cards
    from edgellm.app.context import of
    from edgellm.store.library import Library
    from edgellm.types.request import SelectionRequest

    if profile is not None and not fits:
        raise UsageError("--profile is about what fits", hint="add --fits", param="profile")
    request = SelectionRequest(task=task or "chat")  # type: ignore[arg-type]  # raises for a task that does not exist
    stored = Library().installed() if profile is None else []
    if installed:
        _print_stored(stored, _found(stored), as_json)
        return
    context = of(profile, models_file=models_file) if fits else None
    rows = known_cards(models_file) if context is None else context.cards
    cards = sorted(rows, key=lambda card: (card.kind, -card.params, card.id))
    if task is not None or fits:
        from edgellm.selection.scenario import TASK_NEEDS

        cards = [card for card in cards if card.kind == TASK_NEEDS[request.task].kind]
    plans, slow = _plans(cards, request, context) if context is not None else ({}, 0)
    listed = [_row(card, stored, plans.get(card.id)) for card in cards if not fits or card.id in plans]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "models": listed}, indent=2))
    elif fits:
        _print_fitting(listed, request, slow)
    else:
        _print_rows(listed)


def _plans(
    cards: list[ModelCard], request: SelectionRequest, context: SelectionContext
) -> tuple[dict[str, dict[str, Any]], int]:
    """Model -> how it would be run, for those that fit and are fast enough; and how many fit and are too slow.

    One decision for each model.
    """
    from edgellm.selection import decision_json
    from edgellm.selection.decide import decide

    rate = _rate(request)
    plans: dict[str, dict[str, Any]] = {}
    slow = 0
    for card in cards:
        try:
            decision = decision_json.to_dict(decide(context.narrowed([card]), request))
        except NothingFits:
            continue
        choice = decision["choice"]
        if choice[rate]["tok_s"] < decision["inputs"]["floor_tps"]:
            slow += 1
            continue
        keys = ("quant", "backend", "ctx", "kv_type", "tensor_bytes", "decode", "prefill", "quality", "memory")
        plans[card.id] = {key: choice[key] for key in keys}
    return plans, slow


def _rate(request: SelectionRequest) -> str:
    """The key of the rate that a task is judged by."""
    return "prefill" if request.task == "embed" else "decode"


def _row(card: ModelCard, stored: list[StoredModel], plan: dict[str, Any] | None) -> dict[str, Any]:
    from edgellm.selection.decision_json import about_model

    row: dict[str, Any] = {
        **about_model(card),
        "quants": sorted({file.quant for file in card.files}),
        "installed": sorted({s.quant for s in stored if s.model_id == card.id and not s.problem}),
        "source": card.source,
        "trust": card.trust,
    }
    return row if plan is None else {**row, "here": plan}


def _print_rows(listed: list[dict[str, Any]]) -> None:
    width = max((len(row["id"]) for row in listed), default=0)
    click.echo(f"{'model':<{width}}  params    context  licence")
    for row in listed:
        disk = f"  (on disk: {' '.join(row['installed'])})" if row["installed"] else ""
        kind = "" if row["kind"] == "chat" else f"  {row['kind']}"
        numbers = f"{show_params(row['params']):>6}  {row['ctx_train']:>9,}"
        mark = "*" if row["license_restricts"] else ""
        click.echo(f"{row['id']:<{width}}  {numbers}  {row['license']}{mark}{kind}{disk}")
    click.echo(f"\n{len(listed)} models. `edgellm auto-select` chooses one, `edgellm quants` explains the names.")
    _print_licence_note(listed)


def _print_fitting(listed: list[dict[str, Any]], request: SelectionRequest, slow: int) -> None:
    """At most 80 columns for ids of up to 36 characters."""
    from edgellm.selection.scenario import TASK_NEEDS

    width = max((len(row["id"]) + 1 for row in listed), default=5)
    quant, weights, context, rate, memory = COLUMNS
    click.echo(f"{'model':<{width}} {quant:<7} {weights:>8} {context:>7} {rate:>6} {memory:>9}")
    for row in listed:
        plan = row["here"]
        name = row["id"] + ("*" if row["license_restricts"] else "")
        sizes = f"{show_size(plan['tensor_bytes']):>8} {plan['ctx']:>7,}"
        numbers = f"{show_rate(plan[_rate(request)]['tok_s']):>6} {show_memory(plan['memory']['needed_bytes']):>9}"
        click.echo(f"{name:<{width}} {plan['quant']:<7} {sizes} {numbers}")
    floor = show_rate(TASK_NEEDS[request.task].floor_tps)
    more = f"; {slow} more fit but stay below {floor} tok/s" if slow else ""
    click.echo(f"\n{len(listed)} models for {request.task}{more}.\n`edgellm estimate MODEL` tells more of one.")
    _print_licence_note(listed)


def _print_licence_note(listed: list[dict[str, Any]]) -> None:
    if any(row["license_restricts"] for row in listed):
        click.echo("* the licence restricts use; read it before you build on it.")


def _found(stored: list[StoredModel]) -> list[dict[str, Any]]:
    """Files of the user's own, of Ollama and in the hub's cache, but those that are stored already."""
    from edgellm.store import local

    stored_paths = {os.path.realpath(s.folder / file.path) for s in stored for file in s.files}
    return [
        {
            "id": item.card.id if item.card else item.path.name,
            "quant": item.card.files[0].quant if item.card else "",
            "bytes": item.card.files[0].bytes if item.card else item.path.stat().st_size,
            "origin": item.origin,
            "problem": f"damaged: {item.problem}" if item.problem else "",
            "path": str(item.path),
        }
        for item in local.models()
        if os.path.realpath(item.path) not in stored_paths
    ]


def _print_stored(stored: list[StoredModel], others: list[dict[str, Any]], as_json: bool) -> None:
    from edgellm import explain

    entries: list[dict[str, Any]] = [
        {
            "id": s.model_id,
            "quant": s.quant,
            "bytes": s.bytes,
            "source": s.source,
            "problem": explain.stored(s.problem),
            "problem_facts": explain.facts(s.problem),
            "folder": str(s.folder),
        }
        for s in stored
    ]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "installed": entries, "found": others}, indent=2))
        return
    for entry in (*entries, *others):
        problem = f"  {entry['problem']}" if entry["problem"] else ""
        origin = f"  ({entry['origin']})" if "origin" in entry else ""
        click.echo(f"{entry['id']} {entry['quant']}  {show_size(entry['bytes'])}{origin}{problem}")
        click.echo(f"    {entry.get('folder') or entry['path']}")
    if not entries and not others:
        click.echo("Nothing is stored yet. `edgellm serve` fetches what it chooses.")
