"""`edgellm rm`: delete models from this disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import STORED
from edgellm.errors import UnknownModel, UsageError
from edgellm.units import show_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm.store.manifest import StoredModel

SCHEMA = 1


@click.command(epilog=examples("edgellm rm qwen3-4b", "edgellm rm qwen3-4b:Q8_0 smollm2-135m-instruct"))
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=STORED)
@click.option("--force", is_flag=True, help="Also a model that a running program has open.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(*, models: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Delete models from this disk.

    MODEL is an id of `edgellm list`, with every quantization that is stored, or ID:QUANT.
    """
    from edgellm.store.library import Library

    library = Library()
    installed = library.installed()
    # A wrong name is told before anything is deleted.
    chosen = list({s.folder: s for name in models for s in _named(name, installed)}.values())
    if not force:
        _require_idle(chosen)
    rows = []
    for stored in chosen:
        freed = library.remove_entry(stored)
        rows.append({"id": stored.model_id, "quant": stored.quant, "freed_bytes": freed})
        if not as_json:
            _tell(stored, freed)
    if as_json:
        say_json({"schema": SCHEMA, "removed": rows})


def _named(name: str, installed: Sequence[StoredModel]) -> list[StoredModel]:
    """The entries that a name means.

    Raises:
        UnknownModel: none.
    """
    model_id, _, quant = name.lower().partition(":")
    from edgellm.store.http import redacted

    entries = [s for s in installed if s.model_id.lower() == model_id and quant in ("", s.quant.lower())]
    if not entries:
        shown = redacted(name) if "://" in name else name
        raise UnknownModel(f"{shown!r} is not stored here", hint=_hint(model_id, installed))
    return entries


def _require_idle(chosen: Sequence[StoredModel]) -> None:
    """Raises UsageError: a program has one of them open, and could not load it again."""
    from edgellm.store.holders import holders

    for stored in chosen:
        if pids := holders(stored.folder):
            processes = f"process{'es' if len(pids) > 1 else ''} {', '.join(map(str, pids))}"
            message = f"{stored.model_id} {stored.quant} is in use by {processes}; nothing was deleted"
            raise UsageError(message, hint="stop what runs it first, or delete it with --force")


def _hint(model_id: str, installed: Sequence[StoredModel]) -> str:
    from edgellm.app.context import rows
    from edgellm.cli.list import elsewhere

    for other in elsewhere(installed):
        if other["id"].lower() == model_id:
            return f"it belongs to another program or to you: delete {other['path']} there"
    card = rows().get(model_id)
    if card is not None and any(file.source.startswith("file:") for file in card.files):
        return "it is part of an installed package, and takes no room of its own: there is nothing to remove"
    names = sorted({f"{s.model_id}:{s.quant}" for s in installed})
    if near := [name for name in names if name.lower().startswith(model_id)]:
        return f"did you mean {' or '.join(near)}? The beginning of a name is not enough to delete by"
    return f"stored: {', '.join(names) or 'nothing'}"


def _tell(stored: StoredModel, freed: int) -> None:
    outside = [file.path for file in stored.files if os.path.isabs(file.path)]
    room = f"{show_size(freed)} are free" if freed or not outside else "nothing is free, as only its record lay there"
    say(f"Removed {stored.model_id} {stored.quant} from the store: {room}.")
    for path in outside:
        say(f"{path} stays where it is: it lies outside of the store.", lead="  ")
