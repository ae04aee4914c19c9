"""Which stored models a name means, and whether they may go: asked by `edgellm rm` and by Ollama's clients."""

from __future__ import annotations

import os
from collections.abc import Sequence

from edgellm.app import context
from edgellm.app.tune import jobs
from edgellm.errors import UnknownModel, UsageError
from edgellm.files import safe_name
from edgellm.store import local
from edgellm.store.adapters import AdapterStore
from edgellm.store.address import redacted
from edgellm.store.begun import BegunDownload
from edgellm.store.holders import holders, shown
from edgellm.store.manifest import StoredModel

PACKAGED = "comes with an installed package, and takes no room of its own: there is nothing to delete"


def named(name: str, installed: Sequence[StoredModel]) -> list[StoredModel]:
    """The entries that `ID` or `ID:QUANT` means. The beginning of a name is not enough to delete by.

    Raises:
        UnknownModel: none.
    """
    entries = _entries(name, installed)
    if not entries:
        shown = redacted(name) if "://" in name else name[:80]
        raise UnknownModel(f"{shown!r} is not stored here", hint=_adapter(name) or _hint(name, installed))
    return entries


def is_stored(name: str, installed: Sequence[StoredModel]) -> bool:
    """Whether `named` finds anything."""
    return bool(_entries(name, installed))


def _entries(name: str, installed: Sequence[StoredModel]) -> list[StoredModel]:
    model_id, _, quant = name.lower().partition(":")
    return [s for s in installed if s.model_id.lower() == model_id and quant in ("", s.quant.lower())]


def begun(name: str, downloads: Sequence[BegunDownload]) -> list[BegunDownload]:
    """Of these, what `ID` or `ID:QUANT` means."""
    model_id, _, quant = name.lower().partition(":")
    folder = safe_name(model_id)
    return [d for d in downloads if d.model_id.lower() == folder and quant in ("", d.quant.lower())]


def require_idle(chosen: Sequence[StoredModel]) -> None:
    """
    Raises:
        UsageError: a program has one of them open, and could not load it again.
    """
    for stored in chosen:
        if programs := users(stored):
            message = f"{stored.model_id} {stored.quant} is in use by {programs}; nothing was deleted"
            raise UsageError(message, hint="stop what runs it first, or delete it with `edgellm rm --force`")


def users(stored: StoredModel) -> str:
    """The programs that have it open, as a sentence names them; "" = none."""
    return ", ".join(dict.fromkeys(map(shown, holders(stored.folder))))


def packaged(name: str) -> list[tuple[str, str]]:
    """Id and quantization of the files that a plugin brought of what `ID` or `ID:QUANT` means, stored or not."""
    model_id, _, quant = name.lower().partition(":")
    card = next((card for card in context.rows(here=False).values() if card.id.lower() == model_id), None)
    files = [file for file in card.files if file.source.startswith("file:")] if card is not None else []
    return [(card.id, file.quant) for file in files if card is not None and quant in ("", file.quant.lower())]


def is_packaged(stored: StoredModel) -> bool:
    """Whether a plugin brought its file: there is only its record in the store."""
    pair = (stored.model_id, stored.quant)
    return all(os.path.isabs(file.path) for file in stored.files) and pair in packaged(stored.model_id)


def adapters_of(removed: StoredModel) -> list[str]:
    """Names of the adapters that were made for it, which stay here: they run again when it is back."""
    return [
        stored.name
        for stored in AdapterStore().installed()
        if stored.base_id == removed.model_id and stored.record is not None and not stored.is_merged
        if stored.record.base_quant == removed.quant
    ]


def _adapter(name: str) -> str:
    for stored in AdapterStore().installed():
        if stored.label.lower() == name.lower():
            return f"it is an adapter: edgellm adapters rm {stored.label}"
    for job in jobs.unfinished():
        if job.label.lower() == name.lower():
            return f"it is a tuning that did not end: edgellm adapters jobs --rm {job.id}"
    return ""


def _hint(name: str, installed: Sequence[StoredModel]) -> str:
    model_id = name.lower().partition(":")[0]
    for item in local.models():
        if (item.card.id if item.card else item.path.name).lower() == model_id:
            return f"it belongs to another program or to you: delete {item.path} there"
    if packaged(name):
        return f"it {PACKAGED}"
    names = sorted({f"{s.model_id}:{s.quant}" for s in installed})
    if of_it := sorted({s.quant for s in installed if s.model_id.lower() == model_id}):
        return f"stored of it: {', '.join(of_it)}"
    if near := [name for name in names if name.lower().startswith(model_id)]:
        return f"did you mean {' or '.join(near)}? The beginning of a name is not enough to delete by"
    return f"stored: {', '.join(names) or 'nothing'}"
