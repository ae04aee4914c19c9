"""`edgellm rm`: delete models from this disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import STORED
from edgellm.units import show_size

if TYPE_CHECKING:
    from edgellm.store.manifest import StoredModel

SCHEMA = 1


@click.command(epilog=examples("edgellm rm qwen3-4b", "edgellm rm qwen3-4b:Q8_0 smollm2-135m-instruct"))
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=STORED)
@click.option("--force", is_flag=True, help="Also a model that a running program has open.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(*, models: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Delete models from this disk.

    MODEL is an id of `edgellm list`, with every quantization that is stored, or ID:QUANT. What a download that did not
    end has left of it goes, too.
    """
    from edgellm.app import removal
    from edgellm.store.library import Library

    library = Library()
    installed, downloads = library.installed(), library.begun()
    begun = {d.entry: d for name in models for d in removal.begun(name, downloads)}
    # A wrong name is told before anything is deleted.
    packaged = {name: removal.packaged(name) for name in models}
    names = [
        name
        for name in models
        if not (removal.begun(name, downloads) or packaged[name]) or removal.is_stored(name, installed)
    ]
    entries = {s.folder: s for name in names for s in removal.named(name, installed)}
    chosen = [stored for stored in entries.values() if not removal.is_packaged(stored)]
    if not force:
        removal.require_idle(chosen)
    rows = []
    for download in begun.values():
        freed = library.remove_begun(download)
        rows.append({"id": download.model_id, "quant": download.quant, "freed_bytes": freed})
        if not as_json:
            name = f"{download.model_id} {download.quant}".strip()
            say(f"Removed what was fetched of {name} and never whole: {show_size(freed)} are free.")
    for stored in chosen:
        users = removal.users(stored) if force and not as_json else ""
        freed = library.remove_entry(stored)
        rows.append({"id": stored.model_id, "quant": stored.quant, "freed_bytes": freed})
        if not as_json:
            _tell(stored, freed, users)
    for model_id, quant in dict.fromkeys(pair for pairs in packaged.values() for pair in pairs):
        if not as_json:
            say(f"{model_id} {quant} {removal.PACKAGED}.")
    if as_json:
        say_json({"schema": SCHEMA, "removed": rows})


def _tell(stored: StoredModel, freed: int, users: str) -> None:
    from edgellm.app import removal

    outside = [file.path for file in stored.files if os.path.isabs(file.path)]
    when = f" once {users} no longer has it open" if users else ""
    room = (
        f"{show_size(freed)} are free{when}"
        if freed or not outside
        else "nothing is free, as only its record lay there"
    )
    say(f"Removed {stored.model_id} {stored.quant} from the store: {room}.")
    if adapters := removal.adapters_of(stored):
        say(f"Adapters of it stay: {', '.join(adapters)}.", lead="  ")
    for path in outside:
        say(f"{path} stays where it is: it lies outside of the store.", lead="  ")
