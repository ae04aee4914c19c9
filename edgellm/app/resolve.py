"""What a name that the user typed means: a card of the catalog, a file or folder on this disk, or an address.

    refer("qwen3-4b:Q4_K_M", cards)    which of the three, and its parts; no file is opened, nothing is requested
    resolve("hf://owner/repo", context)    the model as a catalog card, described by headers without fetching weights

Every command, the SDK and the server ask here, so that a name means the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from edgellm import settings
from edgellm.app import context as app_context
from edgellm.app import file_card, own_format, stored_cards
from edgellm.app.file_card import with_known_quants
from edgellm.app.stored_cards import StoredCard
from edgellm.app.unavailable import damage_of
from edgellm.catalog import lookup
from edgellm.catalog.recognize import recognize
from edgellm.contract.manager import plugins
from edgellm.contract.source import Resolver, scheme_of
from edgellm.errors import (
    SourceError,
    SourceUnreachable,
    UnknownModel,
    UnsupportedArtifact,
    UsageError,
    loading,
    option,
    speaks_in_flags,
)
from edgellm.estimate import quants
from edgellm.files import expanded
from edgellm.selection.context import SelectionContext
from edgellm.store.adapters import AdapterStore
from edgellm.store.address import check_userinfo
from edgellm.store.card import card_of
from edgellm.store.sources import asking
from edgellm.store.sources.local_file import LocalFile
from edgellm.store.sources.registry import source_for, sources
from edgellm.types.model import Artifact, ModelCard, ModelFile

# Long enough for a slow link's first answer, short enough that a dead network is not mistaken for a hang.
REACH_TIMEOUT_S = 5.0
MAX_NAME = 4096  # characters: a path that is longer is none of Linux's
SUFFIXES = (".gguf", ".onnx", ".safetensors")
NOT_PUBLISHED = "none: no published file of it is known"  # source of a file that is predicted from the shape alone


class ReferenceKind(StrEnum):
    CARD = "card"
    FILE = "file"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Reference:
    """What the user typed, taken apart."""

    kind: ReferenceKind
    name: str  # the card's id, or the beginning of one; the path; the address
    quant: str | None = None  # of `id:QUANT`
    hides_path: bool = False  # a file or folder here has the name of the card, too
    typed: str = ""  # of a card: its name as the user wrote it

    def taken_as(self, card: ModelCard) -> str:
        """What the user wrote, where it is not the card's id; "" where it is."""
        return "" if self.kind is not ReferenceKind.CARD or self.typed.lower() == card.id else self.typed


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A card with the files that were meant; where the facts come from; the model's other files."""

    card: ModelCard
    basis: str
    others: tuple[ModelFile, ...] = ()
    artifact: Artifact | None = None  # the file on this disk that was named
    typed: str = ""  # the name, where another than the card's id was written
    shown_as: str = ""  # the name that it is stored under, where that is not the card's id


def refer(text: str, cards: Sequence[ModelCard]) -> Reference:
    """What `text` names.

    A text is a path if it looks like one (a separator, a model file's suffix), or if it exists and no card has that id.
    So the id wins, and `./name` names the file.

    Raises:
        UsageError: it is empty, or longer than any name. SourceError: an address whose scheme no source has, or one
        with a user name or a password, before anything says or stores it.
    """
    if not text.strip():
        raise UsageError("the model's name is empty", hint="name a model, a file or an address", param="model")
    if len(text) > MAX_NAME:
        told = f"a model's name has at most {MAX_NAME:,} characters, and this one has {len(text):,}: {text[:60]}..."
        raise UsageError(told, hint="name a model, a file or an address", param="model")
    scheme = scheme_of(text)
    if scheme == "file":
        return Reference(ReferenceKind.FILE, str(LocalFile.path_of(text)))
    if scheme in sources():
        check_userinfo(text)
        return Reference(ReferenceKind.ADDRESS, text)
    if scheme and text.startswith(f"{scheme}://") and not _exists(text):
        check_userinfo(text)
        source_for(text)  # no path is written so: the error names the schemes, and the plugins that failed
    has_separator = any(mark and mark in text for mark in (os.sep, os.altsep))
    exists = _exists(text)
    is_card = text.lower() in {card.id for card in cards}
    if has_separator or text.lower().endswith(SUFFIXES) or (exists and not is_card):
        return Reference(ReferenceKind.FILE, str(expanded(text)))
    name, _, tag = text.partition(":")
    if not tag or _is_quant(tag, name, cards):
        return Reference(ReferenceKind.CARD, name, tag or None, exists, typed=name)
    return _tagged(name, tag, text)


def _is_quant(tag: str, name: str, cards: Iterable[ModelCard]) -> bool:
    """Whether `name:tag` is a model and a quantization, and not Ollama's name and size."""
    lower = tag.lower()
    return any(lower == known.lower() for known in quants.QUANTS) or any(
        card.id == name.lower() or any(file.quant.lower() == lower for file in card.files) for card in cards
    )


def _tagged(name: str, tag: str, text: str) -> Reference:
    """As Ollama names models: `qwen3:4b`, `llama3.2:1b-instruct-q4_K_M`, `smollm2:latest`."""
    front, _, end = tag.rpartition("-")
    quant = next((known for known in quants.QUANTS if known.lower() == end.lower()), None)
    size = front if quant is not None else "" if tag == "latest" else tag
    return Reference(ReferenceKind.CARD, f"{name}-{size}".strip("-"), quant, typed=text)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        # Too long or with a NUL: no file has such a name.
        return False


def named_artifact(text: str, context: SelectionContext, backend: str | None = None) -> Artifact | None:
    """What lies at the path that `text` is; None where it names a model of the catalog, or an address.

    Raises:
        As `refer` and `own_format.identified`.
    """
    reference = refer(text, context.cards)
    return own_format.identified(reference.name, backend) if reference.kind is ReferenceKind.FILE else None


def resolve(
    text: str,
    context: SelectionContext,
    *,
    quant: str | None = None,
    offline: bool = False,
    predict: bool = False,
    artifact: Artifact | None = None,
) -> ResolvedModel:
    """The model that `text` names, narrowed to one quantization where one is named.

    The context's cards add what a header does not say (scores, licence), and answer where a source does not.
    `predict`: only numbers are needed, so one file of a quantization is enough, and an unpublished one will do where
    its recipe is known. `artifact`: what `named_artifact` gave of a path.

    Raises:
        UnknownModel, UsageError, ArtifactError, SourceError.
    """
    reference = refer(text, context.cards)
    if reference.kind is ReferenceKind.CARD:
        _require_no_adapter(text)
    if reference.kind is ReferenceKind.FILE:
        if quant is not None:
            hint = "leave it out: a file is in one"
            raise UsageError(f"{option('quant')} has no meaning for {reference.name}", hint=hint, param="quant")
        artifact = artifact or own_format.identified(reference.name)
        card, basis = file_card.of(artifact, context.cards)
        return ResolvedModel(card, basis, artifact=artifact)
    typed = ""
    if reference.kind is ReferenceKind.ADDRESS:
        with own_format.told_of_address():
            meant, basis = _of_address(text, context.cards, offline=offline)
        card = meant.card
    else:
        meant = named_model(reference.name, context)
        card = meant.card
        typed = reference.taken_as(card)
        basis = _of_the_catalog(card)
        if predict:
            require_shape(card)
    whole = ResolvedModel(card, basis, typed=typed, shown_as="" if meant.name == card.id else meant.name)
    return _narrowed(whole, quant or reference.quant, predict=predict)


def _require_no_adapter(text: str) -> None:
    if ":" not in text:
        return
    label = next((stored.label for stored in AdapterStore().installed() if stored.label.lower() == text.lower()), "")
    if label:
        shows = f"`edgellm adapters show {label}` says what it is, " if speaks_in_flags() else ""
        hint = f"{shows}`{loading(label)}` answers with it"
        raise UsageError(f"{label} is no published file: it was tuned or imported here", hint=hint, param="model")


def require_shape(card: ModelCard) -> None:
    """
    Raises:
        UnsupportedArtifact: the card has none. Such a model is passed over among others; as the only one it is told.
    """
    if card.shape is None:
        raise UnsupportedArtifact(
            f"the shape of {card.id} is not known, so neither memory nor speed can be predicted",
            hint="name a file of it, or hf://OWNER/REPO:QUANT: its header tells; or give its row a shape",
        )


def named_model(name: str, context: SelectionContext) -> StoredCard:
    """The card that `name` means: an id of the catalog, a name that `edgellm list` shows, or the beginning of an id.

    Raises:
        UnknownModel: none, or several. BadArtifact: what is stored under that name is damaged.
    """
    cards = named_cards(context)
    if name.lower() not in {card.id for card in cards} and (stored := stored_cards.named(name, cards)) is not None:
        return stored
    try:
        card = lookup.find(name, cards)
        return StoredCard(card.id, card)
    except UnknownModel as error:
        error.hint += plugins().suspects("register_models")
        if any(row.name == name and row.error for row in plugins().rows()):
            plugins().backend(name)  # tells what is wrong with the plugin
        if name not in plugins().backends():
            raise
        hint = f"name a path or a model of the catalog, with {option('backend', name)}"
        raise UnknownModel(f"{name!r} is a backend that needs a model", hint=hint) from None


def named_cards(context: SelectionContext) -> Sequence[ModelCard]:
    """The context's cards, with what was quantized twice on this machine, which must be named to be used."""
    return app_context.with_stored(context.cards, requantized=True) if context.is_here else context.cards


def _narrowed(whole: ResolvedModel, quant: str | None, *, predict: bool) -> ResolvedModel:
    card = whole.card
    published = sorted({file.quant for file in card.files})
    if quant is None:
        if predict and not published:
            recipes = ", ".join(q.name for q in quants.QUANTS.values() if q.predictable)
            raise UsageError(
                f"no published file of {card.id} is known", hint=f"{option('quant')} predicts one of {recipes}"
            )
        return whole
    files = tuple(file for file in card.files if file.quant.lower() == quant.lower())
    others = tuple(file for file in card.files if file not in files)
    if predict:
        recipe = next((q for q in quants.QUANTS.values() if q.name.lower() == quant.lower() and q.predictable), None)
        files = files[:1] or ((ModelFile(NOT_PUBLISHED, recipe.name),) if recipe else ())
    if not files:
        # What was made here is published nowhere.
        if not predict and (error := damage_of(card.id, quant)) is not None:
            raise error
        raise UsageError(f"{card.id} has no file in {quant}", hint=_instead(card.id, quant, published), param="quant")
    return replace(whole, card=replace(card, files=files), others=others)


def _instead(model: str, quant: str, published: Sequence[str]) -> str:
    """What can stand behind the name of a model: a quantization, or an adapter that was tuned or imported here."""
    import difflib

    from edgellm.app.tune import jobs

    by_name = {name.upper(): name for name in published}
    near = difflib.get_close_matches(quant.upper(), by_name, n=1)
    adapters = [stored.name for stored in AdapterStore().installed() if stored.base_id == model]
    parts = [f"published: {', '.join(published) or 'none'}"]
    parts += [f"adapters of it: {', '.join(adapters)}"] if adapters else []
    if any(job.label.lower() == f"{model}:{quant}".lower() for job in jobs.unfinished()):
        parts += [f"a tuning called {quant} was begun and never finished: `edgellm adapters jobs` says how to go on"]
    parts += [f"did you mean {by_name[near[0]]}?"] if near else []
    return "; ".join(parts)


def _of_address(uri: str, cards: Sequence[ModelCard], *, offline: bool) -> tuple[StoredCard, str]:
    """By what was fetched from there before, or the headers at the source; where it cannot be asked, by the card that
    has such a file."""
    if (stored := stored_cards.at(uri, cards)) is not None:
        return stored, f"the header of what is stored, from {uri}"
    if not isinstance(source_for(uri), Resolver):
        card = _of_catalog(uri, cards)
        if card is None:
            raise SourceError(
                f"{scheme_of(uri)}: describes no file before it is fetched", hint=f"fetch it first: {loading('MODEL')}"
            )
        return StoredCard(card.id, card), _of_the_catalog(card)
    try:
        _require_answer(uri, offline=offline)
        card = with_known_quants(recognize(card_of(uri), cards))
        return StoredCard(card.id, card), f"the header at {uri}"
    except SourceUnreachable as error:
        card = _of_catalog(uri, cards)
        if card is None and (stored := stored_cards.below(uri, cards)) is not None:
            return stored, f"the headers of what is stored, as {error.message}"
        if card is None:
            raise
        return StoredCard(card.id, card), f"{_of_the_catalog(card)}, as {error.message}"


def _of_the_catalog(card: ModelCard) -> str:
    """Where the facts of a row are from; a plugin's, or the user's own, need not say it."""
    return f"the catalog; trust {card.trust}" if card.trust else "a row that does not say how it knows them"


def _require_answer(uri: str, *, offline: bool) -> None:
    """Raises SourceUnreachable before the hub's client tries a dead network for half a minute."""
    if settings.current().offline:
        return  # the source only looks on this disk
    if offline:
        raise SourceUnreachable(
            f"{uri} cannot be asked, as offline was asked for",
            hint=f"leave {option('offline')} out, or name a model of the catalog: `edgellm models`",
        )
    problem = asking.reachable(source_for(uri), REACH_TIMEOUT_S, uri)
    if problem:
        raise SourceUnreachable(f"{uri}: {problem}", hint="connect to a network, or name a model of the catalog")


def _of_catalog(uri: str, cards: Iterable[ModelCard]) -> ModelCard | None:
    """The card that has this file, or this repository; with the files that the URI means."""
    for card in cards:
        files = tuple(f for f in card.files if f.source == uri or f.source.startswith((f"{uri}:", f"{uri}/")))
        if files and card.shape is not None:
            return replace(card, files=files)
    return None
