"""`edgellm list`: the models on this disk, and where they lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli import unfinished
from edgellm.cli.page import examples, say, say_json
from edgellm.units import counted, show_size

if TYPE_CHECKING:
    from edgellm.store.begun import BegunDownload
    from edgellm.store.manifest import StoredModel

SCHEMA = 1


@click.command(epilog=examples("edgellm list", "edgellm list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/selection.md).")
def command(*, as_json: bool) -> None:
    """List the models on this disk."""
    show(as_json)


def show(as_json: bool) -> None:
    """Print what is stored, and what other tools and the user put on this disk."""
    from edgellm import explain
    from edgellm.app.tune import jobs
    from edgellm.store.adapters import AdapterStore
    from edgellm.store.library import Library

    stored = Library().checked(again=False)
    entries = [_entry(s) for s in stored]
    others = elsewhere(stored)
    begun = Library().begun()
    if as_json:
        say_json({"schema": SCHEMA, "installed": entries, "found": others, "begun": list(map(_begun, begun))})
        return
    remedies = [explain.stored_remedy(s.problem) if s.problem else "" for s in stored] + [""] * len(others)
    for entry, remedy in zip((*entries, *others), remedies, strict=True):
        way_on = f"; {remedy}" if remedy else ""
        problem = f"  {entry['problem']}{way_on}" if entry["problem"] else ""
        origin = f"  ({entry['origin']})" if "origin" in entry else ""
        say(f"{entry['id']} {entry['quant']}  {show_size(entry['bytes'])}{origin}{problem}")
        say(entry.get("folder") or entry["path"], lead="    ")
    for download in begun:
        say(unfinished.sentence_of(download))
    tunings = jobs.unfinished()
    for job in tunings:
        say(unfinished.sentence_of_tuning(job))
    adapters = AdapterStore().installed()
    if adapters:
        size = show_size(sum(one.record.bytes for one in adapters if one.record is not None))
        say(f"{counted(len(adapters), 'adapter')}, {size}: `edgellm adapters list` shows them")
    if not entries and not others and not begun and not tunings and not adapters:
        say("Nothing is stored yet. `edgellm pull` fetches a model, and `edgellm run` the one that it chooses.")


def _entry(stored: StoredModel) -> dict[str, Any]:
    from edgellm import explain

    return {
        "id": stored.model_id,
        "quant": stored.quant,
        "bytes": stored.bytes,
        "source": stored.source,
        "problem": explain.stored(stored.problem),
        "problem_facts": explain.facts(stored.problem),
        "folder": str(stored.folder),
    }


def _begun(download: BegunDownload) -> dict[str, Any]:
    return {
        "id": download.model_id,
        "quant": download.quant,
        "bytes": download.bytes,
        "is_running": download.is_running,
        "folders": list(map(str, download.folders)),
    }


def elsewhere(stored: Sequence[StoredModel]) -> list[dict[str, Any]]:
    """Files of the user's own, of Ollama and in the hub's cache, but those that are stored already."""
    from edgellm.store import local

    stored_paths = {os.path.realpath(s.folder / file.path) for s in stored for file in s.files}
    return [
        {
            "id": item.card.id if item.card else item.path.name,
            "quant": item.card.files[0].quant if item.card else "",
            "bytes": item.card.files[0].bytes if item.card else _size(item.path),
            "origin": item.origin,
            "problem": f"damaged: {item.problem}" if item.problem else "",
            "path": str(item.path),
        }
        for item in local.models()
        if os.path.realpath(item.path) not in stored_paths
    ]


def _size(path: Path) -> int:
    """0 of a file that went meanwhile, or of a link that leads nowhere."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
