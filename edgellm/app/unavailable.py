"""Why a model cannot be had now, and what of it is on this disk."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm import explain
from edgellm.app import context as app_context
from edgellm.contract.source import scheme_of
from edgellm.errors import SourceUnreachable
from edgellm.store import manifest
from edgellm.store.library import Library
from edgellm.types.plan import Candidate


def unavailable(wish: Candidate, silent: Mapping[str, str], *, offline: bool) -> SourceUnreachable:
    """The error where `wish` would be chosen. `silent`: by scheme, why a source does not answer."""
    library = Library()
    entries = [entry for entry in library.installed() if entry.model_id == wish.model]
    damaged = [explain.stored(entry.problem) for entry in map(manifest.check, entries) if entry.problem]
    asked = "offline was asked for" if offline else silent.get(scheme_of(wish.source), "its source does not answer")
    causes = [asked, *(f"what is stored of it is {what}" for what in damaged)]
    message = f"{wish.model} {wish.quant}, which would be chosen, cannot be had: {'; '.join(causes)}"
    others = _on_this_disk(wish.model, library)
    if others:
        are = "is" if len(others) == 1 else "are"
        hint = f"{', '.join(others)} of it {are} on this disk: edgellm run {wish.model}:{others[0]}"
    elif offline:
        hint = "leave --offline out, unset EDGELLM_OFFLINE, or name a model file: edgellm serve PATH.gguf"
    else:
        hint = "connect to a network, or name a model file: edgellm serve PATH.gguf"
    return SourceUnreachable(message, hint=hint)


def _on_this_disk(model: str, library: Library) -> list[str]:
    """Quantizations of it that need no network."""
    card = next((card for card in app_context.cards() if card.id == model), None)
    files = card.files if card is not None else ()
    keys = library.local_keys()
    quants = [f.quant for f in files if scheme_of(f.source) == "file" or not keys.isdisjoint((f.source, f.sha256))]
    return list(dict.fromkeys(quants))
