"""Cards of stored models that are found by what their entry says: the name that `edgellm list` shows, or the address.

A file that was fetched by its address is stored under the name that it had there. Its hash, known since, may tell which
model of the catalog it is: the card is that model's, and users go on to see the name that it is stored under.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm import explain
from edgellm.app import file_card
from edgellm.app.unavailable import remedy
from edgellm.catalog.recognize import recognize
from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.store.card import local_card
from edgellm.store.library import Library
from edgellm.store.manifest import StoredModel
from edgellm.store.sealed import slot_of
from edgellm.types.model import ModelCard


@dataclass(frozen=True, slots=True)
class StoredCard:
    """A card whose files are stored. `name`: what they are stored under, which may be another than the card's id."""

    name: str
    card: ModelCard


def named(name: str, cards: Sequence[ModelCard]) -> StoredCard | None:
    """What is stored under exactly that name (case does not count); None = nothing.

    Raises:
        BadArtifact: all of it is damaged. UnsupportedArtifact.
    """
    entries = [stored for stored in Library().installed() if stored.model_id.lower() == name.lower()]
    damaged = [stored for stored in entries if stored.problem]
    if damaged and len(damaged) == len(entries):
        is_sealed = slot_of(Library().root) is not None
        hint = remedy(damaged[0]) if is_sealed else f"delete it with `edgellm rm {name}`, and fetch it again"
        raise BadArtifact(f"what is stored as {name} is {explain.stored(damaged[0].problem)}", hint=hint)
    return _of(entries, cards)


def at(address: str, cards: Sequence[ModelCard]) -> StoredCard | None:
    """The sound file that was fetched from that address; None = there is none, or only the row that has it tells of it,
    as where it is in a format of a plugin.

    Raises:
        BadArtifact, UnsupportedArtifact.
    """
    try:
        return _of([stored for stored in Library().installed() if stored.source == address][:1], cards)
    except UnsupportedArtifact:
        if any(file.source == address for card in cards for file in card.files):
            return None
        raise


def below(repository: str, cards: Sequence[ModelCard]) -> StoredCard | None:
    """The sound files that were fetched from a repository; None = there are none.

    Raises:
        BadArtifact, UnsupportedArtifact.
    """
    inside = (f"{repository}:", f"{repository}/")
    entries = [stored for stored in Library().installed() if stored.source.startswith(inside) and not stored.problem]
    return _of([stored for stored in entries if stored.model_id == entries[0].model_id], cards)


def _of(entries: Sequence[StoredModel], cards: Sequence[ModelCard]) -> StoredCard | None:
    sound = [stored for stored in entries if not stored.problem]
    if not sound:
        return None
    described = [_described(stored, cards) for stored in sound]
    files = tuple(
        replace(card.files[0], source=stored.source, sha256=stored.sha256 or None)
        for stored, card in zip(sound, described, strict=True)
    )
    return StoredCard(sound[0].model_id, replace(described[0], files=files))


def _described(stored: StoredModel, cards: Sequence[ModelCard]) -> ModelCard:
    artifact = stored.artifact()
    if stored.format != "gguf":
        return file_card.of(artifact, cards)[0]
    card = local_card(Path(artifact.path), model_id=stored.model_id, sha256=stored.sha256)
    return file_card.with_known_quants(recognize(card, cards))
